"""Watch a GAN for the ways in which it goes wrong."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from torch.optim import Optimizer

from lightning_advreg.callbacks import gan_rules as rules
from lightning_advreg.callbacks.convergence_measurements import LossWatch
from lightning_advreg.callbacks.convergence_moment import ranks_of
from lightning_advreg.callbacks.convergence_record import write_alarms
from lightning_advreg.callbacks.convergence_rules import NON_FINITE, Alarm
from lightning_advreg.callbacks.gan_measurements import GradientNorms, check_gan, look_at
from lightning_advreg.callbacks.gan_rules import GANLook
from lightning_advreg.callbacks.generators import images_of
from lightning_advreg.callbacks.schedule import check_positive

GANAction: TypeAlias = Literal["warn", "stop"]
"""What to do at an alarm, by name."""

_LOSSES = ("train/d_loss", "train/g_loss")
_NORMS_PER_LOOK = 10


class GANMonitor(Callback):
    """Look at a GAN every few batches, and raise an alarm when its training goes wrong.

    Logged, as means over each epoch, are ``monitor/diversity``, the mean distance of a sample to the one nearest to it
    in that of real images (of one class, where networks take labels), ``monitor/told_apart``, the share of pairs of a
    real and a generated image in which the discriminator gives the real one the larger logit, ``monitor/g_grad_norm``,
    the norm of the generator's gradient, and ``monitor/alarms``, how many alarms there were.

    Alarms, of which ``gan_rules`` has the numbers:

    - ``mode_collapse``: the generator makes a few images over and over.
    - ``discriminator_overpowering``: the discriminator tells all pairs apart, and its loss or the generator's gradient
      is all but 0.
    - ``vanishing_generator_gradient``: that gradient is all but 0 for another reason.
    - ``non_finite_loss``: a loss or a weight is infinite or not a number. It ends the training, whatever ``action`` is.

    Each is said once, with what to do, and written to ``alarms.json`` in the run folder, as ``ConvergenceMonitor`` does
    for classifiers. Samples come from the generator itself rather than its average, which shows a collapse late.
    Training is the same with and without it; a look costs one pass of the generator and two of the discriminator, and
    between looks nothing waits for the device: losses are taken from what ``training_step`` gives, a dictionary with
    ``train/d_loss`` and ``train/g_loss``, as that of ``GAN`` does. A module that only logs losses of these names is
    watched too, but the host then waits in every batch for those that its progress bar shows. Over several processes
    all decide alike. The state is in checkpoints.

    Args:
        action: ``warn`` says an alarm, ``stop`` ends the training too.
        every_n_batches: Batches between two looks.
        max_images: How many images of a batch to look at, on each process.
        warmup: Generator steps before which its samples are not judged, since those of new networks are alike.

    Attributes:
        alarms: The alarms that were raised.
        stop_reason: The alarm that stopped the training, in words, or None.

    Raises:
        TypeError: If the module has no ``generator``, ``discriminator`` or ``noise``.
        ValueError: If a number is out of its range, or the action unknown.

    Example:
        >>> GANMonitor(action="stop", every_n_batches=100).max_images
        128
    """

    def __init__(
        self, action: GANAction = "warn", every_n_batches: int = 50, max_images: int = 128, warmup: int = 200
    ) -> None:
        super().__init__()
        if action not in get_args(GANAction):
            raise ValueError(f"action must be one of {', '.join(get_args(GANAction))}, got {action!r}.")
        self.action = action
        self.every_n_batches = check_positive(every_n_batches, "every_n_batches")
        self.max_images = check_positive(max_images, "max_images")
        if self.max_images == 1:
            raise ValueError("max_images must be at least 2, since one image has no distance to others, got 1.")
        if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
            raise ValueError(f"warmup must be an integer of at least 0, got {warmup!r}.")
        self.warmup = warmup
        self._reset()

    def _reset(self) -> None:
        self.alarms: list[Alarm] = []
        self.stop_reason: str | None = None
        self._said: set[str] = set()
        self._looks: list[GANLook] = []
        self._early: list[float] = []
        self._norms = GradientNorms(max(1, self.every_n_batches // _NORMS_PER_LOOK))
        self._losses = LossWatch()
        self._d_loss: Tensor | None = None
        self._batches = self._batches_of_epoch = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module is a GAN."""
        if stage == "fit":
            check_gan(pl_module)
            self._reset()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the record, and find the generator's optimizer."""
        write_alarms(trainer, self.alarms, self.stop_reason)
        module: Any = pl_module
        own = {id(parameter) for parameter in module.generator.parameters()}
        self._optimizers = [
            optimizer
            for optimizer in trainer.optimizers
            if any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])
        ]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Note the norm of the generator's gradient."""
        if any(optimizer is one for one in self._optimizers):
            module: Any = pl_module
            self._norms.add(module.generator)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Note the losses, and look if it is time."""
        self._batches += 1
        self._batches_of_epoch = batch_idx + 1
        losses = _losses(outputs, trainer)
        for loss in losses.values():
            self._losses.add(loss, batch_idx)
        self._d_loss = losses.get(_LOSSES[0])
        if self._batches % self.every_n_batches == 0:
            self._look(trainer, pl_module, batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the losses, and log the number of alarms."""
        self._judge_losses(trainer)
        pl_module.log("monitor/alarms", float(len(self.alarms)), sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """Give all that a run needs to resume, as plain values."""
        return {
            "alarms": [dataclasses.asdict(alarm) for alarm in self.alarms],
            "stop_reason": self.stop_reason,
            "said": sorted(self._said),
            "looks": [dataclasses.asdict(look) for look in self._looks],
            "early": list(self._early),
            "norms": self._norms.state_dict(),
            "counts": (self._batches, self._batches_of_epoch),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.alarms = [Alarm(**alarm) for alarm in state_dict["alarms"]]
        self.stop_reason = state_dict["stop_reason"]
        self._said = set(state_dict["said"])
        self._looks = [GANLook(**look) for look in state_dict["looks"]]
        self._early = list(state_dict["early"])
        self._norms.load_state_dict(state_dict["norms"])
        self._batches, self._batches_of_epoch = state_dict["counts"]

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object) -> None:
        if self._judge_losses(trainer):
            return
        # the one moment at which the host waits; a process whose batch is too small to judge takes part all the same
        gathered = ranks_of(trainer).gather(self._measure(pl_module, batch))
        found = [values for values in gathered if values is not None]
        if not found:
            return
        diversity, apart, size, gradient, loss = (sum(values) / len(found) for values in zip(*found, strict=True))
        epoch, step = trainer.current_epoch, trainer.global_step
        if not math.isfinite(size):
            self._raise(trainer, rules.non_finite_gan_weights(epoch, step, batch=self._batches_of_epoch - 1))
            return
        if not math.isnan(gradient) and len(self._early) < rules.EARLY:
            self._early.append(gradient)
        judged = self._norms.steps >= self.warmup
        self._looks = [
            *self._looks[1 - rules.PATIENCE :],
            GANLook(
                epoch=epoch, step=step, judged=judged, diversity=diversity, apart=apart, gradient=gradient, d_loss=loss
            ),
        ]
        for name, value in (("diversity", diversity), ("told_apart", apart), ("g_grad_norm", gradient)):
            pl_module.log(f"monitor/{name}", value, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
        overpowered = rules.discriminator_overpowering(self._looks, self._early)
        # a gradient that vanishes because the discriminator has won is one problem, not two
        vanishing = None if overpowered else rules.vanishing_generator_gradient(self._looks, self._early)
        for alarm in (rules.mode_collapse(self._looks), overpowered, vanishing):
            if alarm is not None:
                self._raise(trainer, alarm)

    def _measure(self, pl_module: pl.LightningModule, batch: object) -> list[float] | None:
        """Give what this process sees, or None if its batch has no two images to compare."""
        real = images_of(batch, "GANMonitor")[: self.max_images]
        if len(real) < 2:
            return None
        labels = batch[1][: self.max_images] if isinstance(batch, list | tuple) and len(batch) > 1 else None
        measured = look_at(pl_module, real, labels, offset=self._batches)
        nan = torch.full((), float("nan"), device=measured.device)
        rest = (self._norms.median(), self._d_loss)
        more = [nan if value is None else value.detach().float().reshape(()) for value in rest]
        numbers: list[float] = torch.cat([measured, torch.stack(more)]).tolist()
        return numbers

    def _judge_losses(self, trainer: pl.Trainer) -> bool:
        firsts = ranks_of(trainer).gather(self._losses.first())
        bad = [(batch, rank) for rank, batch in enumerate(firsts) if batch is not None]
        if bad:
            batch, rank = min(bad)
            seen, where = self._batches_of_epoch, rank if len(firsts) > 1 else None
            epoch, step = trainer.current_epoch, trainer.global_step
            self._raise(trainer, rules.non_finite_gan_loss(epoch, step, batch=batch, seen=seen, rank=where))
        return bool(bad)

    def _raise(self, trainer: pl.Trainer, alarm: Alarm) -> None:
        """Say an alarm, unless it was said, and stop if that is what to do."""
        if alarm.name in self._said:
            return
        self._said.add(alarm.name)
        if self.action == "stop" or alarm.name == NON_FINITE:
            alarm = dataclasses.replace(alarm, message=f"{alarm.message} Training stops.")
            self.stop_reason = self.stop_reason or alarm.message
            trainer.should_stop = True
        self.alarms.append(alarm)
        write_alarms(trainer, self.alarms, self.stop_reason)
        rank_zero_warn(alarm.message)


def _losses(outputs: object, trainer: pl.Trainer) -> Mapping[str, Tensor]:
    """Find the losses of a batch: in what the training step gave, or else in what was logged."""
    # callback_metrics turns what a progress bar shows into numbers, for which the host has to wait
    given = outputs if isinstance(outputs, Mapping) and _LOSSES[0] in outputs else trainer.callback_metrics
    return {name: given[name] for name in _LOSSES if name in given}
