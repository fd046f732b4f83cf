"""Which images a rank sees in an epoch: a function of seed, epoch, rank and world size alone."""

from collections.abc import Iterator
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from lightning_advreg.data.seeding import seeded_generator


class TrainSampler(DistributedSampler[Any]):
    """A new order in every epoch, an equal number of images on every rank, and a variant for every image.

    All ranks draw the same order of all images, and rank ``r`` of ``W`` takes places ``r, r + W, ...``; the ``N % W``
    images at its end are left out in that epoch. So ``W`` ranks with batches of ``B / W`` see together the batches that
    one rank sees with batches of ``B``. It is a ``DistributedSampler``, so Lightning leaves it in place, and calls
    ``set_epoch`` before each epoch, also when a run is resumed.

    Args:
        total: Number of images ``N``.
        variants: Number of augmentation variants to draw from (``RandomCropFlip.variants``); 1 for none.
        seed: 0 or more.
        rank: This process, in ``[0, world_size)``.
        world_size: Number of processes ``W``.

    Raises:
        ValueError: If there are fewer images than processes.

    Example:
        >>> sampler = TrainSampler(4, variants=162, seed=0)
        >>> sampler.set_epoch(3)
        >>> sorted(index for index, variant in sampler)
        [0, 1, 2, 3]
    """

    first: int = 0
    """How many images of the epoch to leave out at its start: those trained on before a run was resumed."""

    def __init__(self, total: int, *, variants: int = 1, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        _check_shards(total, world_size, "training")
        super().__init__(range(total), num_replicas=world_size, rank=rank, seed=seed, drop_last=True)  # type: ignore[arg-type]
        self.total = total
        self.variants = variants

    def plan(self) -> tuple[Tensor, Tensor]:
        """Give this rank's whole epoch.

        Returns:
            Indices and variants, int64 of shape ``(len(self),)``, on the CPU.
        """
        generator = seeded_generator(self.seed, self.epoch)
        order = torch.randperm(self.total, generator=generator)
        variant = torch.randint(self.variants, (self.total,), generator=generator)
        mine = slice(self.rank, self.total_size, self.num_replicas)
        return order[mine], variant[mine]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over pairs (index, variant), from ``first`` on."""
        order, variant = (part[self.first :].tolist() for part in self.plan())
        return iter(zip(order, variant, strict=True))


class EvalSampler(DistributedSampler[Any]):
    """Every image exactly once over all ranks, in order, without padding.

    Rank ``r`` of ``W`` takes images ``r, r + W, ...``, so counts differ by one at most. It is a ``DistributedSampler``,
    so that Lightning does not put its own in its place, which repeats images to even out the counts.

    Args:
        total: Number of images.
        rank: This process, in ``[0, world_size)``.
        world_size: Number of processes.

    Raises:
        ValueError: If there are fewer images than processes.

    Example:
        >>> [list(EvalSampler(5, rank=rank, world_size=2)) for rank in range(2)]
        [[0, 2, 4], [1, 3]]
    """

    def __init__(self, total: int, *, rank: int = 0, world_size: int = 1) -> None:
        _check_shards(total, world_size, "evaluation")
        super().__init__(range(total), num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.indices = range(rank, total, world_size)

    def plan(self) -> tuple[Tensor, None]:
        """Give this rank's indices, int64 on the CPU, and no variants: evaluation never augments."""
        return torch.arange(self.indices.start, self.indices.stop, self.indices.step), None

    def __iter__(self) -> Iterator[int]:
        """Iterate over this rank's indices."""
        return iter(self.indices)

    def __len__(self) -> int:
        """Give the number of this rank's images."""
        return len(self.indices)


def even_batch_size(total: int, batch_size: int, world_size: int) -> int:
    """Give the batch size nearest below ``batch_size`` with which every rank has equally many batches in evaluation.

    DDP broadcasts the buffers of BatchNorm in every forward of validation during ``fit``, so a rank with one batch more
    than the others waits for ever. Padding would count images twice; a batch smaller by an image or so does not.

    Args:
        total: Number of images.
        batch_size: The batch size asked for, per rank.
        world_size: Number of processes.

    Returns:
        ``batch_size`` itself in nearly all cases. Above it, by as little as possible, where no smaller one is even,
        which takes a batch size of a few images.

    Example:
        >>> even_batch_size(10_000, 128, 8), even_batch_size(1025, 128, 2)
        (128, 127)
    """
    fewest, extra = divmod(total, world_size)
    if extra == 0 or fewest == 0:
        return batch_size
    # ranks hold `fewest` or one more: the numbers of batches differ exactly where full batches hold all of `fewest`
    return next(size for size in chain(range(batch_size, 0, -1), count(batch_size + 1)) if fewest % size)


def _check_shards(total: int, world_size: int, purpose: str) -> None:
    if total < world_size:
        raise ValueError(
            f"{total} images for {purpose} cannot be shared among {world_size} processes; use fewer devices or a "
            "larger train_size, val_size or test set."
        )
