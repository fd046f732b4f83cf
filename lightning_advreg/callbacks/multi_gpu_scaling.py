"""What changes in a run when it gets more processes, and how much faster it becomes."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import TorchSyncBatchNorm
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.data import extract_batch_size

from lightning_advreg.callbacks.image_log import log_image
from lightning_advreg.callbacks.scaling_batch import (
    check_batch_norms,
    draw_apart,
    share_statistics_,
    shared_batch_size,
    warn_of_synchronised_attacks,
)
from lightning_advreg.callbacks.scaling_clock import Speed, TrainingClock
from lightning_advreg.callbacks.scaling_communication import Waiting
from lightning_advreg.callbacks.scaling_rates import (
    Rule,
    Warmup,
    check_rule,
    check_warmup,
    rate_factor,
    scale_rates_,
    warmup_share,
    warn_of_other_rates,
)
from lightning_advreg.callbacks.scaling_record import FILE, ScalingRecord, read_record, record_of, write_record
from lightning_advreg.reporting.scaling import scaling_figure
from lightning_advreg.values import Number, to_float


class MultiGPUScaling(Callback):
    """Adapt learning rates, batches and BatchNorm to the number of processes, and measure how training scales.

    The batch size of a DataModule is that of one process, so that N processes step with N times as many images. For
    SGD the learning rate then grows as ``lr -> N lr`` after a linear warm-up from ``lr`` (Goyal et al. 2017, sections
    2.1 and 2.2), or as ``lr -> sqrt(N) lr``, which keeps the variance of a step (Krizhevsky 2014, section 5) and is the
    usual choice for Adam. That is done once, to the parameter groups of all optimizers and to their schedulers; a run
    that continues from a checkpoint finds there what it had. With ``None`` nothing is scaled. Validation in ``fit``
    under DDP has the BatchNorm statistics of the first process in all of them, which are those of checkpoints.

    Every epoch logs ``train/images_per_second`` and, where something attacks, ``train/attack_passes_per_second``, over
    all processes and without validation, and under DDP ``train/lost_in_communication``, the share of the time from the
    last gradient of a process to their sum over all. Warm-up logs ``train/lr_warmup``, the share of the learning rate
    that a step is taken with. The end leaves ``scaling.json`` in the run folder and, where there is a run on one
    process to compare with, the picture ``images/scaling_*.png``. Attacks other than those of this library count no
    passes.

    Args:
        learning_rate: ``linear``, ``sqrt``, or None to leave learning rates as they are.
        warmup_epochs: Epochs in which each step's learning rate grows to that of its schedule; may be fractional.
        warmup_steps: The same in steps of each optimizer; give one of the two.
        warmup_start: The share of the learning rate that warm-up begins with, in [0, 1]; None for that of one process.
        constant_global_batch: Divide the ``batch_size`` of the DataModule by the number of processes, so that a step
            has as many images as on one.
        sync_batchnorm: Let BatchNorm take its statistics over all processes, as ``Trainer(sync_batchnorm=True)`` does,
            but with a check of the layers. Attacks in mode ``eval`` do not notice.
        baseline: A file that a run on one process writes, and that others compute their efficiency from.
        seed_by_process: Whether each process draws random numbers of its own in training: random starts of attacks,
            dropout, noise of a GAN. One seed otherwise makes them alike in all. Not for loaders of one's own that
            shuffle alike in all processes.
        communication: Whether to measure what is lost in communication. It needs the one hook that DDP has for its
            gradients.

    Attributes:
        factor: What learning rates were multiplied by.
        record: What ``scaling.json`` says, after ``fit``, or None.

    Raises:
        ValueError: If arguments are out of range or contradict each other; in ``fit``, if batch size or BatchNorm
            cannot be shared, or the baseline is of another kind.

    Example:
        >>> trainer = pl.Trainer(callbacks=[MultiGPUScaling("linear", warmup_epochs=5)], logger=False)
    """

    def __init__(
        self,
        learning_rate: Rule | None = None,
        *,
        warmup_epochs: Number = 0.0,
        warmup_steps: int = 0,
        warmup_start: Number | None = None,
        constant_global_batch: bool = False,
        sync_batchnorm: bool = False,
        baseline: str | Path | None = None,
        seed_by_process: bool = True,
        communication: bool = True,
    ) -> None:
        super().__init__()
        check_rule(learning_rate, constant_global_batch=constant_global_batch)
        self.learning_rate = learning_rate
        self.warmup_epochs = to_float(warmup_epochs, "warmup_epochs", minimum=0)
        check_warmup(self.warmup_epochs, warmup_steps)
        self.warmup_steps = warmup_steps
        self.warmup_start = (
            None if warmup_start is None else to_float(warmup_start, "warmup_start", minimum=0, maximum=1)
        )
        self.constant_global_batch = constant_global_batch
        self.sync_batchnorm = sync_batchnorm
        self.baseline = None if baseline is None else Path(baseline)
        self.seed_by_process = seed_by_process
        self.communication = communication
        self.factor = 1.0
        self.record: ScalingRecord | None = None
        self._restored: dict[str, Any] | None = None
        self._warmup: Warmup | None = None
        self._batch_size: int | None = None
        self._synchronised = False
        self._waiting: Waiting | None = None
        self._single: ScalingRecord | None = None
        self._speeds: list[Speed] = []
        self._clock, self._paused = TrainingClock(), False
        self._largest, self._processes, self._epochs = 0, 1, 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Divide the batch, synchronise BatchNorm before a strategy wraps the module, and draw apart."""
        if stage != "fit":
            return
        self._read_baseline(trainer)
        processes = trainer.world_size
        # before a checkpoint is read, which may know better
        if self.seed_by_process:
            draw_apart(trainer.global_rank)
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.constant_global_batch and processes > 1:
            size = shared_batch_size(datamodule, processes)
            self._batch_size, datamodule.batch_size = datamodule.batch_size, size
        if self.sync_batchnorm and processes > 1:
            check_batch_norms(pl_module, trainer.strategy.root_device.type)
            TorchSyncBatchNorm().apply(pl_module)
            self._synchronised = True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Scale the learning rates of a run that begins; a checkpoint has them scaled."""
        warn_of_synchronised_attacks(trainer, pl_module)
        if trainer.ckpt_path is None:
            self._restored = None
            self.factor = rate_factor(self.learning_rate, trainer.world_size)
            schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
            scale_rates_(trainer.optimizers, schedulers, self.factor)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin or continue the warm-up, and watch the gradients' way."""
        steps: list[int] = []
        if trainer.ckpt_path is not None:
            restored = self._restored or {"factor": 1.0, "processes": trainer.world_size, "steps": []}
            self.factor, steps = restored["factor"], list(restored["steps"])
            warn_of_other_rates(self.learning_rate, trainer.world_size, self.factor, restored["processes"])
        if self.warmup_epochs and trainer.num_training_batches == float("inf"):
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs:g} needs a training loader with a length; give warmup_steps."
            )
        # it counts steps where nothing warms up, too: a checkpoint may be continued with a warm-up
        self._warmup = Warmup(trainer.optimizers, self._share, steps)
        if self.communication and trainer.world_size > 1:
            self._waiting = Waiting(trainer.strategy.model)
            if self._waiting.unmeasured:
                rank_zero_info(f"MultiGPUScaling does not measure communication: {self._waiting.unmeasured}.")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        if self._waiting is not None:
            self._waiting.take()
        self._clock = TrainingClock()
        self._clock.start(pl_module)

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Note how far the warm-up is."""
        if self.warmup_epochs:
            self._epochs = trainer.current_epoch + batch_idx / trainer.num_training_batches
        share = 1.0 if self._warmup is None else self._share(min(self._warmup.steps, default=0))
        if share < 1:
            # a tensor of the CPU: a plain number would be copied to the device, and waited for
            pl_module.log("train/lr_warmup", torch.tensor(share, device="cpu"), on_step=True, on_epoch=False)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Count the images, and stop the clock after the last batch of the epoch."""
        size = extract_batch_size(batch)
        self._clock.images += size
        self._largest = max(self._largest, size)
        if trainer.is_last_batch:
            self._clock.stop(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock for a validation in the middle of an epoch, and evaluate one network in all processes."""
        self._paused = self._clock.running
        self._clock.stop(pl_module)
        if trainer.world_size > 1 and trainer.state.fn == "fit":
            share_statistics_(trainer.strategy.model)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock run on."""
        if self._paused:
            self._clock.start(pl_module)
        self._paused = False

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log how fast the epoch was, over all processes."""
        self._clock.stop(pl_module)
        speed = self._clock.speed(pl_module, None if self._waiting is None else self._waiting.take())
        if speed is None:
            return
        self._speeds.append(speed)
        pl_module.log("train/images_per_second", speed.images_per_second)
        if speed.attack_passes_per_second:
            pl_module.log("train/attack_passes_per_second", speed.attack_passes_per_second)
        if speed.lost == speed.lost:
            pl_module.log("train/lost_in_communication", speed.lost)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was measured, and draw it."""
        if self._warmup is not None:
            self._warmup.remove()
        # log_dir asks the main process, so every process must read it
        folder = trainer.log_dir or trainer.default_root_dir
        if not self._speeds or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        record = self.record = record_of(trainer, pl_module, self._speeds, self._largest, self.factor)
        single = self._single
        if trainer.is_global_zero:
            write_record(Path(folder, FILE), record, single)
            if self.baseline is not None and trainer.world_size == 1:
                write_record(self.baseline, record)
        if single is None:
            return
        if differences := record.differences(single):
            rank_zero_warn(f"no efficiency: the baseline is of another run ({'; '.join(differences)}).")
            return
        speeds = {single.processes: single.images_per_second, record.processes: record.images_per_second}
        lost = None if record.lost_in_communication is None else {record.processes: record.lost_in_communication}
        rank_zero_info(f"Scaling efficiency on {record.processes} processes: {record.efficiency(single):.3f}")
        log_image(trainer, "scaling", scaling_figure(speeds, lost), step=trainer.global_step)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give batch size and BatchNorm back."""
        if stage == "fit":
            self._give_back(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give batch size and BatchNorm back."""
        if self._warmup is not None:
            self._warmup.remove()
        self._give_back(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Give what a run that continues must know: factor, processes, and steps taken."""
        steps = [] if self._warmup is None else list(self._warmup.steps)
        return {"factor": self.factor, "processes": self._processes, "steps": steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint knows."""
        self._restored = dict(state_dict)

    def _read_baseline(self, trainer: pl.Trainer) -> None:
        self._speeds, self._largest, self._single, self._waiting = [], 0, None, None
        self._processes = trainer.world_size
        if self.baseline is None or trainer.world_size == 1:
            return
        if self.baseline.is_file():
            self._single = read_record(self.baseline)
        else:
            rank_zero_warn(
                f"there is no baseline {str(self.baseline)!r}, so that no efficiency will be computed; run the same "
                "with --trainer.devices 1 first, which writes it."
            )

    def _share(self, steps: int) -> float:
        start = 1 / self.factor if self.warmup_start is None else self.warmup_start
        if self.warmup_epochs:
            return warmup_share(self._epochs / self.warmup_epochs, start)
        return warmup_share(steps / self.warmup_steps, start) if self.warmup_steps else 1.0

    def _give_back(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self._batch_size is not None:
            datamodule.batch_size, self._batch_size = self._batch_size, None
        if self._synchronised:
            TorchSyncBatchNorm().revert(pl_module)
            self._synchronised = False
