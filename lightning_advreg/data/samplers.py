"""Which images a rank sees in an epoch: a function of seed, epoch, rank and world size alone."""

from collections.abc import Iterator
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from lightning_advreg.data.generated import GeneratedData
from lightning_advreg.data.seeding import seeded_generator

_EXTRA_ORDER_STREAM = 2
_EXTRA_VARIANT_STREAM = 3
"""Keys of the random streams of generated images, apart from those of the real ones and of the split."""


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


class MixedSampler(TrainSampler):
    """The order of real images, with generated ones added to each batch.

    An epoch is one pass over the real images. Each batch is ``real`` of them, then ``extra`` generated ones; in a last
    batch with fewer real images there are fewer of both, in the same proportion. Generated images come in an order that
    runs on from epoch to epoch: all of them once, but for those of a last batch that is left out, before any comes
    again, in a new order. As with real images, ``W`` ranks with ``extra`` each see together what one rank with
    ``W * extra`` sees.

    Args:
        total: Number of real images.
        extra_total: Number of generated images; their indices follow those of the real ones.
        real: Real images per batch and rank, at least 1.
        extra: Generated images per batch and rank, at least 1.
        variants: Number of augmentation variants to draw from, for both.
        seed: 0 or more.
        rank: This process, in ``[0, world_size)``.
        world_size: Number of processes.

    Raises:
        ValueError: If there are fewer real images than processes.

    Example:
        >>> sampler = MixedSampler(4, extra_total=100, real=2, extra=3)
        >>> [index < 4 for index, variant in sampler]
        [True, True, False, False, False, True, True, False, False, False]
    """

    def __init__(
        self,
        total: int,
        *,
        extra_total: int,
        real: int,
        extra: int,
        variants: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(total, variants=variants, seed=seed, rank=rank, world_size=world_size)
        self.extra_total = extra_total
        self.real = real
        self.extra = extra
        full, rest = divmod(self.num_samples, real)
        self.num_extra = full * extra + (max(1, round(rest * extra / real)) if rest else 0)

    def __len__(self) -> int:
        """Give the number of images of an epoch on this rank, real and generated."""
        return self.num_samples + self.num_extra

    def plan(self) -> tuple[Tensor, Tensor]:
        """Give this rank's whole epoch, batch after batch.

        Returns:
            Indices and variants, int64 of shape ``(len(self),)``, on the CPU. Indices from ``total`` on are of
            generated images.
        """
        order, variant = super().plan()
        mine = slice(self.rank, None, self.num_replicas)
        generator = seeded_generator(self.seed, self.epoch, _EXTRA_VARIANT_STREAM)
        count = self.num_extra * self.num_replicas
        extra_variant = torch.randint(self.variants, (count,), generator=generator)[mine]
        extra_order = self.total + self._extra_order(self.epoch * count, count)[mine]
        i, j = torch.arange(len(order)), torch.arange(self.num_extra)
        # the real images of the last batch may be fewer, and its generated ones follow them at once
        ahead = ((j // self.extra + 1) * self.real).clamp(max=len(order))
        places = torch.cat([i + i // self.real * self.extra, j + ahead])
        plan = torch.empty(2, len(self), dtype=torch.int64)
        plan[0, places] = torch.cat([order, extra_order])
        plan[1, places] = torch.cat([variant, extra_variant])
        return plan[0], plan[1]

    def _extra_order(self, start: int, count: int) -> Tensor:
        passes = range(start // self.extra_total, (start + count - 1) // self.extra_total + 1)
        shuffled = [
            torch.randperm(self.extra_total, generator=seeded_generator(self.seed, number, _EXTRA_ORDER_STREAM))
            for number in passes
        ]
        first = start - passes.start * self.extra_total
        return torch.cat(shuffled)[first : first + count]


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


def train_sampler(
    total: int,
    *,
    extra: GeneratedData | None,
    batch_size: int,
    variants: int = 1,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> TrainSampler:
    """Give the order of training images, with generated ones in each batch where there are any.

    Args:
        total: Number of real images.
        extra: The generated images, or None.
        batch_size: Images per batch and rank, of both kinds together.
        variants: Number of augmentation variants to draw from.
        seed: 0 or more.
        rank: This process.
        world_size: Number of processes.

    Raises:
        ValueError: If there are fewer real images than processes, or a batch has no room for both kinds.
    """
    if extra is None:
        return TrainSampler(total, variants=variants, seed=seed, rank=rank, world_size=world_size)
    real, generated = extra.counts(batch_size)
    return MixedSampler(
        total,
        extra_total=len(extra),
        real=real,
        extra=generated,
        variants=variants,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )


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
