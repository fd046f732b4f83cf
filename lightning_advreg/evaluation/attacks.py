"""Attacks as an evaluation takes them: by name, and with a budget."""

import dataclasses
from collections.abc import Mapping

from lightning_advreg.attacks import Attack, Norm, SearchAttack
from lightning_advreg.metrics.worst_case import WORST_CASE


def named_attacks(attacks: Attack | Mapping[str, Attack]) -> dict[str, Attack]:
    """Give attacks by name; a single one goes by the name of its class in lower case.

    Raises:
        TypeError: If an attack cannot be called.
        ValueError: If there is no attack, a name is not plain text or is taken, or an attack is targeted.

    Example:
        >>> from lightning_advreg.attacks import FGSM
        >>> list(named_attacks(FGSM(eps="8/255")))
        ['fgsm']
    """
    if not isinstance(attacks, Mapping):
        attacks = {getattr(attacks, "__name__", type(attacks).__name__).lower(): attacks}
    if not attacks:
        raise ValueError("attacks must name at least one attack, such as {'autoattack': AutoAttack()}, got none.")
    for name, attack in attacks.items():
        if not isinstance(name, str) or not name or "/" in name or "." in name:
            raise ValueError(f"names of attacks must be text without '/' and '.', such as 'pgd20', got {name!r}.")
        if name == WORST_CASE:
            raise ValueError(f"{WORST_CASE!r} is the name of all attacks together; rename this one.")
        if not callable(attack):
            raise TypeError(
                f"attacks[{name!r}] must be an attack, called as attack(model, x, y), got {attack!r}; give an object "
                "such as AutoAttack()."
            )
        check_untargeted(attack, f"attacks[{name!r}]")
        check_keeps_budget(attack, f"attacks[{name!r}]")
    return dict(attacks)


def check_untargeted(attack: object, name: str) -> None:
    """Raise a ValueError if an attack aims at classes: an image that does not reach its target may still be wrong."""
    if getattr(attack, "targeted", False):
        raise ValueError(
            f"{name} is targeted, and what it leaves is no accuracy; set targeted=False. To aim at several wrong "
            "classes and count every error, use APGD(targets=9)."
        )


def check_keeps_budget(attack: object, name: str) -> None:
    """Raise a ValueError if an attack is for training alone, where it may leave its budget."""
    if not getattr(attack, "keeps_budget", True):
        raise ValueError(
            f"{name} is {type(attack).__name__}, which leaves its budget and is for training alone; evaluate with PGD "
            "or AutoAttack."
        )


def budget_of(attack: object) -> tuple[Norm, float] | None:
    """Give norm and eps of an attack, in pixel units; None if it has no eps above 0.

    Example:
        >>> from lightning_advreg.attacks import DeepFool, PGD
        >>> budget_of(PGD(norm="l2", eps=0.5)), budget_of(DeepFool())
        (('l2', 0.5), None)
    """
    radius: float | None = getattr(attack, "radius", None)
    return (attack.norm, radius) if isinstance(attack, SearchAttack) and radius else None


def budget_to_look_at(attacks: Mapping[str, Attack]) -> tuple[Norm, float]:
    """Give norm and eps of the last attack that has a budget, at which to look for gradient masking.

    Raises:
        ValueError: If there is none.
    """
    budgets = [budget for attack in attacks.values() if (budget := budget_of(attack)) is not None]
    if not budgets:
        raise ValueError("masking needs an attack with a budget eps > 0 to look at; give one, or set masking=False.")
    return budgets[-1]


def stopping_at_success(attack: Attack) -> Attack:
    """Give the attack that leaves an image as soon as it falls, where an attack can be told to."""
    if isinstance(attack, SearchAttack) and hasattr(attack, "stop_at_success"):
        return dataclasses.replace(attack, stop_at_success=True)  # type: ignore[call-arg]
    return attack
