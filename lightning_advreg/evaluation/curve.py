"""Accuracy against the budget of an attack."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import Self

from lightning_advreg.attacks import APGD, Attack, AutoAttack, MinimalAttack, Norm, SearchAttack
from lightning_advreg.evaluation.attacks import budget_of, check_untargeted, stopping_at_success
from lightning_advreg.values import Number, to_float

_FACTORS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class CurveSettings:
    """Which budgets to measure, and with which attack.

    Each budget is attacked in one pass, on the images that withstood the smaller ones, since what is found within a
    small budget lies within a larger one too. So the curve never rises.

    Args:
        eps: The budgets in pixel units; 0 is the clean accuracy, and at least one must be above 0.
        attack: The attack, scaled to each budget with its steps.

    Raises:
        TypeError: If ``eps`` is no sequence.
        ValueError: If no budget is above 0, one repeats or is negative, or the attack has no budget or is targeted.

    Example:
        >>> CurveSettings(eps=("8/255", 0, "4/255")).budgets == (0, 4 / 255, 8 / 255)
        True
    """

    eps: Sequence[Number]
    attack: SearchAttack = APGD(steps=50, seed=None)

    def __post_init__(self) -> None:
        if isinstance(self.eps, str) or not isinstance(self.eps, Sequence):
            raise TypeError(f"eps of the curve must be a sequence of budgets, such as [0, 4/255], got {self.eps!r}.")
        if len({f"{eps:.6g}" for eps in self.budgets}) < len(self.eps) or not any(self.budgets):
            raise ValueError(f"eps of the curve must be different budgets, one above 0 at least, got {list(self.eps)}.")
        check_untargeted(self.attack, "attack of the curve")
        if budget_of(self.attack) is None:
            raise ValueError(
                f"attack of the curve must have a budget eps > 0 to scale, got {self.attack}; use one such as "
                "APGD(norm='linf', eps='8/255')."
            )

    @classmethod
    def around(cls, attack: Attack, eps: Sequence[Number] | None = None) -> Self:
        """Give the curve of an attack around its own budget.

        AutoAttack and attacks that look for the nearest error would take long at each of several budgets: APGD with 50
        steps takes their place.

        Args:
            attack: An attack with a budget.
            eps: The budgets in pixel units; None for 0, 1/4, 1/2, 1, 3/2, 2 and 4 times the attack's own, of which
                those of Linf end at 1.

        Raises:
            ValueError: If the attack has no budget.

        Example:
            >>> CurveSettings.around(AutoAttack(eps=0.4)).budgets
            (0.0, 0.1, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0)
        """
        budget = budget_of(attack)
        if budget is None or not isinstance(attack, SearchAttack):
            raise ValueError(f"attack of the curve must have a budget eps > 0 to scale, got {attack}.")
        norm, radius = budget
        if isinstance(attack, AutoAttack | MinimalAttack):
            attack = APGD(norm=norm, eps=radius, steps=50, draws=getattr(attack, "draws", 1), seed=None)
        largest = 1.0 if norm == "linf" else math.inf
        own = dict.fromkeys(min(factor * radius, largest) for factor in _FACTORS)
        return cls(eps=list(own) if eps is None else eps, attack=attack)

    @property
    def budgets(self) -> tuple[float, ...]:
        """The budgets as floats, ascending."""
        return tuple(sorted(to_float(value, "eps", minimum=0) for value in self.eps))

    @property
    def norm(self) -> Norm:
        """The norm of the budgets."""
        return self.attack.norm

    def stages(self) -> dict[str, Attack]:
        """Give the attack at each budget above 0, by name, ascending."""
        budget = budget_of(self.attack)
        assert budget is not None
        attack = stopping_at_success(self.attack)
        return {f"eps={eps:.6g}": attack.scaled(eps / budget[1]) for eps in self.budgets if eps > 0}
