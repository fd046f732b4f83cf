"""What an evaluation found, as plain values: every rate with its interval and the images it stands on."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_advreg.evaluation.flags import Flag
from lightning_advreg.metrics import wilson_interval


@dataclass(frozen=True)
class Rate:
    """A fraction of images.

    Attributes:
        correct: How many were classified correctly.
        images: Out of how many.

    Example:
        >>> Rate(90, 100).accuracy, [round(bound, 3) for bound in Rate(90, 100).interval]
        (0.9, [0.826, 0.945])
    """

    correct: int
    images: int

    @property
    def accuracy(self) -> float:
        """The fraction, in [0, 1]; NaN of no images."""
        return self.correct / self.images if self.images else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % score interval (Wilson 1927)."""
        return wilson_interval(self.correct, self.images) if self.images else (0.0, 1.0)

    def as_dict(self) -> dict[str, Any]:
        """Give the rate as plain values."""
        accuracy = None if self.images == 0 else self.accuracy
        return {"accuracy": accuracy, "interval": list(self.interval), "correct": self.correct, "images": self.images}


@dataclass(frozen=True)
class AttackResult:
    """What one attack left.

    Attributes:
        attack: Its class and settings, as plain values.
        robust: The images that withstood it.
        stages: The images that withstood each of its stages and those before, by name; one for a simple attack.
        perturbation: Statistics of the distances of what it found, as
            :class:`~lightning_advreg.metrics.PerturbationSize` gives them.
        seconds: How long each stage took, summed over processes.
    """

    attack: Mapping[str, object]
    robust: Rate
    stages: Mapping[str, Rate]
    perturbation: Mapping[str, float]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Give the result as plain values, without times, which differ from run to run."""
        return {
            **self.robust.as_dict(),
            "attack": dict(self.attack),
            "stages": {name: rate.as_dict() for name, rate in self.stages.items()},
            # JSON knows neither NaN nor infinity
            "perturbation": {k: (v if math.isfinite(v) else None) for k, v in self.perturbation.items()},
        }


@dataclass(frozen=True)
class CurveResult:
    """Accuracy against the budget.

    Attributes:
        attack: The attack's class and settings.
        norm: The norm of the budget.
        eps: The budgets, ascending, in pixel units.
        rates: What withstood each of them.
        seconds: How long it took.
    """

    attack: Mapping[str, object]
    norm: str
    eps: tuple[float, ...]
    rates: tuple[Rate, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Give the curve as plain values."""
        return {
            "attack": dict(self.attack),
            "norm": self.norm,
            "points": [{"eps": eps, **rate.as_dict()} for eps, rate in zip(self.eps, self.rates, strict=True)],
        }


@dataclass(frozen=True)
class RobustnessReport:
    """Everything an evaluation found.

    Attributes:
        clean: Accuracy without an attack.
        attacks: What each attack left, by name.
        worst_case: The images that withstood all attacks.
        per_class: Clean and worst-case accuracy of each class, by label.
        curve: Accuracy against the budget, if it was asked for.
        flags: Signs of gradient masking; None if they were not looked for.
        x_adv: Attacked images, with the shape, dtype and device of the images: by the first attack that each fell to,
            clean where none succeeded.
    """

    clean: Rate
    attacks: Mapping[str, AttackResult]
    worst_case: Rate
    per_class: tuple[tuple[Rate, Rate], ...]
    curve: CurveResult | None
    flags: tuple[Flag, ...] | None
    x_adv: Tensor = field(repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Give the report as plain values for JSON: the same after every run with the same seed."""
        return {
            "clean": self.clean.as_dict(),
            "worst_case": self.worst_case.as_dict(),
            "attacks": {name: result.as_dict() for name, result in self.attacks.items()},
            "per_class": [
                {"class": label, "clean": clean.as_dict(), "robust": robust.as_dict()}
                for label, (clean, robust) in enumerate(self.per_class)
            ],
            "curve": None if self.curve is None else self.curve.as_dict(),
            "gradient_masking": None if self.flags is None else [dataclasses.asdict(flag) for flag in self.flags],
        }

    def timings(self) -> dict[str, Any]:
        """Give the seconds that each stage of each attack took."""
        return {
            "attacks": {name: dict(result.seconds) for name, result in self.attacks.items()},
            "curve": None if self.curve is None else self.curve.seconds,
        }

    def rows(self) -> list[dict[str, str | float]]:
        """Give a row for each attack and stage, for a table."""
        rows: list[dict[str, str | float]] = [_row("none", self.clean)]
        for name, result in self.attacks.items():
            if len(result.stages) > 1:
                rows += [_row(f"{name}: {part}", rate, result.seconds[part]) for part, rate in result.stages.items()]
            rows.append(_row(name, result.robust, sum(result.seconds.values())))
        if len(self.attacks) > 1:
            rows.append(_row("worst case", self.worst_case))
        return rows


def _row(name: str, rate: Rate, seconds: float | None = None) -> dict[str, str | float]:
    low, high = (100 * bound for bound in rate.interval)
    row: dict[str, str | float] = {"attack": name, "accuracy": rate.accuracy, "95 %": f"{low:.1f} to {high:.1f}"}
    row["images"] = rate.images
    return row if seconds is None else {**row, "seconds": round(seconds, 1)}
