"""Where a run is: the moment, and the processes that it has."""

from typing import NamedTuple

import lightning.pytorch as pl

from lightning_advreg.attacks import Alone, ProcessGroup


class Now(NamedTuple):
    """A moment of training.

    Attributes:
        epoch: The epoch, from 0.
        step: ``trainer.global_step``.
        trained: How many epochs of training lie behind, with the fraction.
    """

    epoch: int
    step: int
    trained: float


def moment(trainer: pl.Trainer, batches: int) -> Now:
    """Give the moment after so many batches of the epoch; a stream without a length counts as a whole epoch."""
    total = trainer.num_training_batches
    share = min(batches / total, 1.0) if 0 < total < float("inf") else 1.0
    return Now(trainer.current_epoch, trainer.global_step, trainer.current_epoch + share)


def is_fitting(trainer: pl.Trainer) -> bool:
    """Say whether this is training, or a validation of it, and not the check before."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def ranks_of(trainer: pl.Trainer) -> Alone:
    """Give the processes of the run."""
    return ProcessGroup() if trainer.world_size > 1 else Alone()
