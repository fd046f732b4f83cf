"""Numbers that change during training: constant, ramp, or from milestone to milestone."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args

from lightning_advreg.values import Number, to_float

__all__ = ["Constant", "Piecewise", "Ramp", "Schedule"]

Shape: TypeAlias = Literal["linear", "cosine", "exponential"]
"""How a ramp goes from its start to its end."""

Between: TypeAlias = Literal["step", "linear"]
"""What happens between two milestones."""


class Schedule(ABC):
    """A number as a function of the epoch.

    It is a function of the moment alone, with no state: a run that continues from a checkpoint goes on where it was.
    A schedule of one's own implements :meth:`value`, and is best a frozen dataclass, so that checkpoints can rebuild
    it. With :attr:`bounds` too, a value out of range is found before training rather than in the middle of it.
    """

    @abstractmethod
    def value(self, epoch: float) -> float:
        """Give the number at a moment of training.

        Args:
            epoch: The number of epochs before this moment, at least 0, with its fraction: 2.5 is the middle of the
                third epoch.
        """

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest value from epoch 0 on, or None where only :meth:`value` can tell."""
        return None


@dataclass(frozen=True)
class Constant(Schedule):
    """Always the same number.

    Args:
        number: The number; ``8/255`` may be written as text.

    Raises:
        ValueError: If it is not a finite number.

    Example:
        >>> Constant("1/4").value(3.5)
        0.25
    """

    number: Number

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", to_float(self.number, "number"))

    def value(self, epoch: float) -> float:
        """Give the number."""
        return to_float(self.number, "number")

    @property
    def bounds(self) -> tuple[float, float]:
        """The number, twice."""
        return self.value(0), self.value(0)


@dataclass(frozen=True, kw_only=True)
class Ramp(Schedule):
    """From one number to another, and then constant.

    With ``s = (epoch - start_epoch) / epochs``, cut to [0, 1], the value is

    ===============  ==================================================
    ``linear``       ``start + (end - start) s``
    ``cosine``       ``start + (end - start) (1 - cos(pi s)) / 2``
    ``exponential``  ``start^(1 - s) end^s``, for numbers above 0
    ===============  ==================================================

    Args:
        epochs: How long it takes, at least 0 epochs; may be fractional. With 0 it is a jump at ``start_epoch``.
        start: The number up to ``start_epoch``.
        end: The number from ``start_epoch + epochs`` on.
        start_epoch: When it begins, at least 0; may be fractional.
        shape: How it goes from start to end.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> ramp = Ramp(epochs=4, start=0, end=2, start_epoch=1)
        >>> [ramp.value(epoch) for epoch in (0, 1, 2, 3.5, 5, 9)]
        [0.0, 0.0, 0.5, 1.25, 2.0, 2.0]
    """

    epochs: Number
    start: Number = 0.0
    end: Number = 1.0
    start_epoch: Number = 0.0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        for name in ("epochs", "start_epoch"):
            object.__setattr__(self, name, to_float(getattr(self, name), name, minimum=0))
        for name in ("start", "end"):
            object.__setattr__(self, name, to_float(getattr(self, name), name))
        if self.shape not in get_args(Shape):
            raise ValueError(f"shape must be linear, cosine or exponential, got {self.shape!r}.")
        if self.shape == "exponential" and min(self.bounds) <= 0:
            raise ValueError(
                f"an exponential ramp needs a start and an end above 0, got start={self.start:g} and end={self.end:g}; "
                "take a small number in place of 0, or shape='cosine'."
            )

    def value(self, epoch: float) -> float:
        """Give the number at a moment of training."""
        start, end = to_float(self.start, "start"), to_float(self.end, "end")
        past, epochs = epoch - to_float(self.start_epoch, "start_epoch"), to_float(self.epochs, "epochs")
        # before the formula, whose rounding would miss the end by the last digit
        if past >= epochs:
            return end
        share = max(past / epochs, 0.0) if epochs > 0 else 0.0
        if self.shape == "exponential":
            return start * (end / start) ** share
        return start + (end - start) * (share if self.shape == "linear" else (1 - math.cos(math.pi * share)) / 2)

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the higher one of start and end."""
        start, end = to_float(self.start, "start"), to_float(self.end, "end")
        return min(start, end), max(start, end)


@dataclass(frozen=True, kw_only=True)
class Piecewise(Schedule):
    """From milestone to milestone, and constant after the last.

    Args:
        milestones: Pairs of an epoch, which may be fractional, and the number from then on. The first is at epoch 0,
            and each is later than the one before.
        between: With ``step`` a number holds until the next milestone; with ``linear`` it goes there in a straight
            line.

    Raises:
        TypeError: If ``milestones`` is not a list of pairs.
        ValueError: If an argument is out of its range.

    Example:
        >>> steps = Piecewise(milestones=[(0, 1), (10, 3), (20, 7)])
        >>> [steps.value(epoch) for epoch in (0, 9.9, 10, 30)]
        [1.0, 1.0, 3.0, 7.0]
        >>> Piecewise(milestones=[(0, 0), (15, 1), (30, 0)], between="linear").value(22.5)
        0.5
    """

    milestones: Sequence[tuple[Number, Number]]
    between: Between = "step"

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(_pairs(self.milestones)))
        epochs = self._epochs
        if not epochs or epochs[0] != 0:
            given = f"{epochs[0]:g}" if epochs else "none"
            raise ValueError(
                f"milestones must begin at epoch 0, got {given}; put the number that training begins with in front, as "
                "in [[0, 1], [10, 2]]."
            )
        for before, after in pairwise(epochs):
            if after <= before:
                raise ValueError(f"milestones must be in the order of their epochs, got {after:g} after {before:g}.")
        if self.between not in get_args(Between):
            raise ValueError(f"between must be step or linear, got {self.between!r}.")

    def value(self, epoch: float) -> float:
        """Give the number at a moment of training."""
        epochs, numbers = self._epochs, self._numbers
        last = max(bisect_right(epochs, epoch) - 1, 0)
        if self.between == "step" or last + 1 == len(epochs):
            return numbers[last]
        share = (epoch - epochs[last]) / (epochs[last + 1] - epochs[last])
        return numbers[last] + (numbers[last + 1] - numbers[last]) * share

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number of all milestones."""
        return min(self._numbers), max(self._numbers)

    @property
    def _epochs(self) -> list[float]:
        return [to_float(epoch, "milestones") for epoch, _ in self.milestones]

    @property
    def _numbers(self) -> list[float]:
        return [to_float(number, "milestones") for _, number in self.milestones]


def check_schedule(schedule: object, name: str, *, minimum: float | None = None) -> None:
    """Check an argument that must be a schedule.

    Args:
        schedule: The argument.
        name: Its name, for the error message.
        minimum: The smallest value allowed. It is checked where the schedule knows its :attr:`Schedule.bounds`.

    Raises:
        TypeError: If ``schedule`` is not a schedule.
        ValueError: If its values are known to go below ``minimum``.

    Example:
        >>> check_schedule(Ramp(epochs=5), "weight", minimum=0)
        >>> check_schedule(Constant(-1), "weight", minimum=0)
        Traceback (most recent call last):
        ...
        ValueError: weight must be at least 0, got -1 from Constant(number=-1.0).
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"{name} must be a schedule, such as Ramp(epochs=5) or Constant(1), got {schedule!r}.")
    if minimum is not None and schedule.bounds is not None and schedule.bounds[0] < minimum:
        raise ValueError(f"{name} must be at least {minimum:g}, got {schedule.bounds[0]:g} from {schedule!r}.")


def _pairs(milestones: object) -> list[tuple[float, float]]:
    pairs: list[Any] = list(milestones) if isinstance(milestones, Sequence) else [None]
    if isinstance(milestones, str) or not all(isinstance(p, Sequence) and len(p) == 2 for p in pairs):
        raise TypeError(
            f"milestones must be a list of pairs of an epoch and a number, such as [[0, 1], [10, 2]], got "
            f"{milestones!r}."
        )
    return [
        (to_float(epoch, "the epoch of a milestone", minimum=0), to_float(number, "the number of a milestone"))
        for epoch, number in pairs
    ]
