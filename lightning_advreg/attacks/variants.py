"""The same attack with one thing changed, also where it is a callable of the user's own."""

import dataclasses

from lightning_advreg.attacks.base import Attack, has_field
from lightning_advreg.attacks.losses import LossName


def scaled(attack: Attack, factor: float) -> Attack:
    """Give an attack with its budget multiplied by ``factor``; one of the user's own may be any callable.

    Raises:
        TypeError: If the attack has no budget to scale.
    """
    # the base class says what it lacks
    return attack.scaled(factor) if hasattr(attack, "scaled") else Attack.scaled(attack, factor)


def with_steps(attack: Attack, steps: int) -> Attack:
    """Give an attack with another number of steps; one of the user's own may be any callable.

    Raises:
        TypeError: If the attack has no number of steps.
    """
    return attack.with_steps(steps) if hasattr(attack, "with_steps") else Attack.with_steps(attack, steps)


def unchecked(attack: Attack) -> Attack:
    """Give an attack that is spared its check at each call, and the device synchronisation with it.

    For callers that have checked the batch themselves. An attack that has no field ``check`` comes back as it is, as
    does any callable of the user's own.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> unchecked(PGD()).check
        False
    """
    if not isinstance(attack, Attack) or not has_field(attack, "check"):
        return attack
    return dataclasses.replace(attack, check=False)  # type: ignore[type-var]


def maximising(attack: Attack, loss: LossName) -> Attack:
    """Give an attack on another loss; one of the user's own may be any callable.

    Raises:
        TypeError: If the attack has no loss to choose.
    """
    return attack.maximising(loss) if hasattr(attack, "maximising") else Attack.maximising(attack, loss)
