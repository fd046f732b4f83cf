"""One look of the convergence monitor at a network in training."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Outcomes: TypeAlias = Sequence[bool]
"""For each image whether the network was right, always in the same order."""

_OUTCOMES = ("fgsm", "pgd", "train_pgd")


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at a network in training found.

    Attributes:
        epoch: The epoch in which it was, from 0.
        step: ``trainer.global_step`` at that time.
        trained: How many epochs of training lie before it, with the fraction.
        fgsm: Which monitored images were right under FGSM.
        pgd: Which of them were right under PGD-10.
        train_pgd: Which monitored training images were right under PGD-10.
    """

    epoch: int
    step: int
    trained: float
    fgsm: Outcomes
    pgd: Outcomes
    train_pgd: Outcomes

    def state_dict(self) -> dict[str, Any]:
        """Give plain values, outcomes as text such as ``0110``."""
        values = dataclasses.asdict(self)
        return {**values, **{name: "".join("01"[right] for right in values[name]) for name in _OUTCOMES}}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Look":
        """Rebuild what :meth:`state_dict` gave."""
        return cls(**{**state, **{name: tuple(bit == "1" for bit in state[name]) for name in _OUTCOMES}})


def accuracy(outcomes: Outcomes) -> float:
    """Give the share of images that were right.

    Example:
        >>> accuracy([True, False, False, False])
        0.25
    """
    return sum(outcomes) / len(outcomes)
