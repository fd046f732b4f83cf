"""The images that a generator was trained on, without augmentation."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
from torch import Tensor
from torch.utils.data import default_collate


def training_images(trainer: pl.Trainer, batch_size: int, limit: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Give this process's share of the training images and their labels, in batches.

    Args:
        trainer: The Trainer, with a data module that has a ``train_set``.
        batch_size: Images per batch.
        limit: How many images at the start of the set count over all processes; None for all.

    Raises:
        ValueError: If the data module has none.
    """
    data = getattr(trainer, "datamodule", None)
    if data is not None and getattr(data, "train_set", None) is None:
        # a test has not read them yet
        data.setup("fit")
    train_set: Any = getattr(data, "train_set", None)
    if train_set is None:
        raise ValueError(
            "the training images are read from the attribute `train_set` of the data module, which "
            f"{'is missing' if data is None else type(data).__name__ + ' lacks'}; give the Trainer one of "
            "lightning_advreg.data, set reference='held_out', and leave NearestNeighbours out."
        )
    count = len(train_set) if limit is None else min(limit, len(train_set))
    mine = range(trainer.global_rank, count, trainer.world_size)
    # plain places in the set: our data sets augment only what comes with the seed of an augmentation
    for first in range(0, len(mine), batch_size):
        places = list(mine[first : first + batch_size])
        if hasattr(train_set, "__getitems__"):
            batch = train_set.__getitems__(places)
            # ours give a whole batch, others a list of images and labels
            x, y = default_collate(batch) if isinstance(batch, list) else batch
        else:
            x, y = default_collate([train_set[place] for place in places])
        yield x, y
