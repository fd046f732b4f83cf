"""Training in one thread, and what it costs: processor time over that of a baseline that runs before and after."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from benchmarks.each_method.study import Row
from lightning_advreg.data import ImageDataModule

Fit = Callable[[Row, int, "Clock"], object]
"""Train a row for some epochs, timed."""


class Clock(Callback):
    """Processor seconds of each epoch of training, without validation and without set-up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin."""
        self._started = time.process_time()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what the epoch took."""
        self.seconds.append(time.process_time() - self._started)


class Pace:
    """How long epochs of the baseline take now, measured between the runs that are compared with it.

    Args:
        fit: Trains a row for so many epochs.
        epochs: Epochs that count, after one that does not.
    """

    def __init__(self, fit: Fit, epochs: int) -> None:
        self._fit, self._epochs = fit, epochs
        self._last: tuple[str, float] | None = None
        self._before = 0.0

    def before(self, baseline: Row) -> None:
        """Take the pace before a run, unless the baseline's is known from after the run before."""
        if self._last is None or self._last[0] != baseline.name:
            self._last = (baseline.name, self._measured(baseline))
        self._before = self._last[1]

    def after(self, baseline: Row) -> float:
        """Give seconds of an epoch of the baseline: the mean of before and after."""
        seconds = self._measured(baseline)
        self._last = (baseline.name, seconds)
        return (self._before + seconds) / 2

    def _measured(self, baseline: Row) -> float:
        clock = Clock()
        self._fit(baseline, 1 + self._epochs, clock)
        return sum(clock.seconds[1:]) / self._epochs


class PacedSetting(ABC):
    """A setting whose cost is the time of training over that of the baseline before and after.

    Args:
        epochs: Of training.
        pace_epochs: Epochs of the baseline that each cost is measured against.
    """

    def __init__(self, epochs: int, pace_epochs: int) -> None:
        self.epochs = epochs
        self._pace = Pace(lambda row, count, clock: self._trained(row, 0, count, clock), pace_epochs)
        self._spent = 0.0

    def prepare(self, baseline: Row) -> None:
        """Take the pace of the baseline before a run."""
        self._pace.before(baseline)

    def remark(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Give nothing."""
        return ""

    def cost(self, baseline: Row) -> float | None:
        """Give the time of the last run over that of the baseline at the pace around it."""
        return round(self._spent / (self.epochs * self._pace.after(baseline)), 3)

    @abstractmethod
    def _trained(self, row: Row, seed: int, epochs: int, clock: Clock) -> Any:  # noqa: ANN401
        """Train a row, timed, and give what is measured."""


def fit(
    module: pl.LightningModule, data: ImageDataModule, epochs: int, clock: Clock, callbacks: Sequence[Callback] = ()
) -> None:
    """Train quietly, leaving nothing behind."""
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=[*callbacks, clock],
    )
    trainer.fit(module, datamodule=data)


def seed_all(seed: int) -> None:
    """Seed all generators."""
    seed_everything(seed, verbose=False)
