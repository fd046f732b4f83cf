"""Which images of a batch to count, so that every image of the data counts once over all processes."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DistributedSampler


@dataclass
class Share:
    """This process's part of a loader, of which image ``i`` is image ``i * world_size + rank`` of the data.

    So a ``DistributedSampler`` deals images out. It repeats some at the end, to give every process equally many; those
    are the ones at places of ``limit`` and later.

    Args:
        limit: How many images at the start of the data count, or None for all that come.
        rank: This process, in ``[0, world_size)``.
        world_size: Number of processes.
        seen: How many images have come so far.

    Example:
        >>> share = Share(limit=5, rank=1, world_size=2)  # places 1, 3, 5, of which the last is a repeated image
        >>> share.take(2), share.take(1)
        (2, 0)
    """

    limit: int | None
    rank: int = 0
    world_size: int = 1
    seen: int = 0

    @property
    def place(self) -> int:
        """Where in the data the next image stands."""
        return self.seen * self.world_size + self.rank

    def take(self, batch_size: int) -> int:
        """Give how many images at the start of the next batch count, and move on to the batch after it."""
        counted = batch_size
        if self.limit is not None:
            left = -(-(self.limit - self.place) // self.world_size)
            counted = min(max(left, 0), batch_size)
        self.seen += batch_size
        return counted


def shares(trainer: pl.Trainer, max_images: int | None) -> list[Share]:
    """Give this process's share of each loader of the validation or test that is running.

    Args:
        trainer: The Trainer.
        max_images: How many images at the start of each loader's data count over all processes; None for all.
    """
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    # one loader, or any nesting of lists and dicts
    return [_share(loader, trainer, max_images) for loader in CombinedLoader(loaders, "sequential").flattened]


def _share(loader: Any, trainer: pl.Trainer, max_images: int | None) -> Share:  # noqa: ANN401
    samplers = (getattr(owner, "sampler", None) for owner in (loader, getattr(loader, "batch_sampler", None)))
    sampler = next((found for found in samplers if isinstance(found, DistributedSampler)), None)
    if sampler is None:
        return Share(max_images, trainer.global_rank, trainer.world_size)
    total = len(cast(Sized, sampler.dataset))
    return Share(total if max_images is None else min(max_images, total), sampler.rank, sampler.num_replicas)
