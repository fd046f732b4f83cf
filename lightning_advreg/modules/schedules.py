"""Schedules in training: learning rates that need no count of steps from the user, and the attack of the moment."""

import math

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_advreg.attacks import Attack, AttackSchedule


class LinearOneCycle(LRScheduler):
    """Rise linearly to the optimizer's learning rate, then fall linearly to zero, changing at every step.

    The one-cycle schedule of fast training (Smith & Topin 2018; Wong et al. 2020, section 5). The modules of this
    library fill in ``total_steps`` from the trainer.

    Args:
        optimizer: Its learning rates are the peaks.
        warmup: The share of training spent rising, in [0, 1).
        total_steps: The number of optimizer steps of the whole training.

    Raises:
        ValueError: If ``warmup`` or ``total_steps`` is out of its range.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = LinearOneCycle(optimizer, warmup=0.5, total_steps=4)
        >>> rates = []
        >>> for _ in range(4):
        ...     rates += schedule.get_last_lr()
        ...     optimizer.step(); schedule.step()
        >>> rates
        [0.25, 0.75, 0.75, 0.25]
    """

    def __init__(self, optimizer: Optimizer, warmup: float = 0.4, total_steps: int | None = None) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must be in [0, 1), a share of training, got {warmup}.")
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}.")
        self.warmup = warmup
        self.total_steps = total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Give the learning rate of each parameter group at this step, taken at the step's middle."""
        if self.total_steps is None:
            return list(self.base_lrs)
        progress = min((self.last_epoch + 0.5) / self.total_steps, 1.0)
        factor = progress / self.warmup if progress < self.warmup else (1 - progress) / (1 - self.warmup)
        return [rate * factor for rate in self.base_lrs]

    def fit_to(self, total_steps: float | None) -> None:
        """Set the number of steps, if it was not given, and the learning rate of the first one.

        Raises:
            ValueError: If the training has no end.
        """
        if self.total_steps is None:
            if total_steps is None or not 1 <= total_steps < math.inf:
                raise ValueError("LinearOneCycle must know when training ends; set max_epochs of the Trainer.")
            self.total_steps = int(total_steps)
            self._last_lr = self.get_lr()
            for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
                group["lr"] = rate


def scheduler_config(scheduler: LRScheduler) -> LRSchedulerConfigType:
    """Say how often Lightning steps a scheduler: ``LinearOneCycle`` at every step, others at every epoch."""
    return {"scheduler": scheduler, "interval": "step" if isinstance(scheduler, LinearOneCycle) else "epoch"}


def fit_schedules(trainer: Trainer) -> None:
    """Tell each ``LinearOneCycle`` of a trainer how long training lasts, once training starts.

    Not in ``configure_optimizers``: ``trainer.estimated_stepping_batches`` sets up the training loader there, before
    Lightning knows from a checkpoint at which batch to go on.
    """
    for config in trainer.lr_scheduler_configs:
        if isinstance(config.scheduler, LinearOneCycle):
            steps = trainer.estimated_stepping_batches if config.interval == "step" else trainer.max_epochs
            config.scheduler.fit_to(steps)


def scheduled_attack(module: LightningModule, schedule: AttackSchedule, attack: Attack, epoch: float) -> Attack:
    """Give the attack of a moment of training, and log what is scheduled, as ``train/eps_factor`` and the like.

    Args:
        module: The module that logs.
        schedule: The schedule.
        attack: The attack at factor 1.
        epoch: The number of epochs before this moment, with its fraction.
    """
    for name, value in schedule.values(epoch).items():
        # a tensor of the CPU: a plain number would be copied to the device, and waited for
        module.log(f"train/{name}", torch.tensor(value, device="cpu"))
    return schedule.at(attack, epoch)
