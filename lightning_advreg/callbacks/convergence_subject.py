"""What the convergence monitor looks at: a network and its training attack, in the module or beside it."""

from operator import attrgetter
from typing import Any

import lightning.pytorch as pl
from torch import Tensor, nn

from lightning_advreg.attacks import AttackSchedule, Model, Norm
from lightning_advreg.callbacks.adversarial_training import AdversarialTraining
from lightning_advreg.callbacks.batches import KEYS, Keys, taken_apart
from lightning_advreg.callbacks.isolation import check_classifier
from lightning_advreg.callbacks.pixel_units import PixelUnits, dtype_of

_NAME = "ConvergenceMonitor"
_FAR = 1000


class Subject:
    """A module in training, with the eyes of the ``AdversarialTraining`` callback where there is one.

    Args:
        trainer: The Trainer.
        pl_module: The module.
        keys: Where a batch has its images and labels; None for what the callback has, or ``("image", "label")``.

    Attributes:
        judge_from: For how many epochs the training attack grows. The network does not know the whole budget before.

    Raises:
        TypeError: If the module has no ``forward``, and no part of it is named.
    """

    def __init__(self, trainer: pl.Trainer, pl_module: pl.LightningModule, keys: Keys | None = None) -> None:
        self._module = pl_module
        self._callback = adversarial_training(trainer)
        self._keys = keys or (KEYS if self._callback is None else self._callback.keys)
        named = None if self._callback is None else self._callback.model
        if named is None:
            check_classifier(pl_module, _NAME)
        self._named = named
        owner = attack_owner(trainer, pl_module)
        horizon = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else _FAR
        # a foreign module may say for itself how long it warms up
        self.judge_from = max(
            float(getattr(owner, "eps_warmup_epochs", 0.0)), growth(getattr(owner, "attack_schedule", None), horizon)
        )
        mean, std = (None, None) if self._callback is None else (self._callback.mean, self._callback.std)
        self._units = PixelUnits(mean, std, "AdversarialTraining")
        self._normalized = mean is not None

    def network(self) -> nn.Module:
        """Give what maps images in [0, 1] to logits."""
        if self._named is None and not self._normalized:
            return self._module
        model: Model = self._module
        if self._named is not None:
            model = attrgetter(self._named)(self._module) if isinstance(self._named, str) else self._named
        return _Network(model, self._units if self._normalized else None, self._module)

    def images_and_labels(self, batch: object) -> tuple[Tensor, Tensor]:
        """Take a batch apart: images in [0, 1], and labels.

        Raises:
            TypeError: If it is of another kind.
        """
        x, y = taken_apart(batch, self._keys, _NAME)
        # rounding takes pixels out of the range a little
        return (self._units.pixels(x).clamp(0, 1), y) if self._normalized else (x, y)


def growth(schedule: AttackSchedule | None, horizon: int) -> float:
    """Give the epoch, to a quarter, at which a scheduled attack is for the first time as strong as it ever gets.

    Args:
        schedule: The schedule, or None.
        horizon: How many epochs to look at.

    Example:
        >>> from lightning_advreg.schedules import Ramp
        >>> growth(AttackSchedule(eps_factor=Ramp(epochs=5, start_epoch=2)), horizon=20)
        7.0
    """
    if schedule is None:
        return 0.0
    epochs = [quarter / 4 for quarter in range(4 * horizon + 1)]
    strengths = [list(schedule.values(epoch).values()) for epoch in epochs]
    courses = list(zip(*strengths, strict=True))
    return max(epochs[course.index(max(course))] for course in courses)


class _Network(nn.Module):
    def __init__(self, model: Model, units: PixelUnits | None, module: pl.LightningModule) -> None:
        super().__init__()
        # all layers of the module in reach, as in training
        self.module, self.model, self.units = module, model, units

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x if self.units is None else self.units.as_given(x, dtype_of(self.module)))


def adversarial_training(trainer: pl.Trainer) -> AdversarialTraining | None:
    """Give the callback that attacks the training images, if there is one."""
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, AdversarialTraining)), None)


def attack_owner(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:  # noqa: ANN401
    """Give the object whose ``attack`` is trained with: the callback ``AdversarialTraining``, or the module."""
    return adversarial_training(trainer) or pl_module


def attack_budget(owner: object) -> tuple[Norm, float] | None:
    """Give norm and eps of a training attack; None where there is none, or no eps above 0."""
    attack = getattr(owner, "attack", None)
    radius = getattr(attack, "radius", None)
    return (getattr(attack, "norm", "linf"), float(radius)) if isinstance(radius, float | int) and radius > 0 else None


def monitored_budget(owner: object, norm: Norm | None, eps: float | None) -> tuple[Norm, float]:
    """Give the norm and eps to monitor: those given, or those of the training attack.

    Raises:
        ValueError: If there is no eps.
    """
    trained = attack_budget(owner)
    if eps is not None:
        return norm or (trained[0] if trained is not None else "linf"), eps
    if trained is None:
        raise ValueError(
            f"ConvergenceMonitor needs a budget, and {type(owner).__name__} has no training attack to take it "
            "from; give one, such as eps=8/255."
        )
    return trained
