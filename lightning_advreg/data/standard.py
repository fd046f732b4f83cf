"""The standard loader: a DataLoader with worker processes that leaves the global random state alone."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_advreg.data.datasets import ImageDataset
from lightning_advreg.data.pixels import Batch
from lightning_advreg.data.position import EpochPosition
from lightning_advreg.data.samplers import EvalSampler, TrainSampler


class StandardLoader(DataLoader[Batch]):
    """A DataLoader that starts an epoch when its first batch is asked for, and can start in its middle.

    Lightning makes the iterator of the first epoch of a run before it calls ``set_epoch``. A plain DataLoader with
    workers fetches at once, and so repeats the order of epoch 0 when a run is resumed later. Arguments are those of
    ``torch.utils.data.DataLoader``; :func:`standard_loader` fills them in.

    Example:
        >>> data = ImageDataset(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.arange(5))
        >>> loader = standard_loader(data, EvalSampler(5), batch_size=2)
        >>> [y.tolist() for x, y in loader]
        [[0, 1], [2, 3], [4]]
    """

    # created on demand: Lightning may build the loader anew, from the arguments of DataLoader alone
    _position: EpochPosition | None = None

    @property
    def position(self) -> EpochPosition:
        """How far the loader is in its epoch."""
        if self._position is None:
            self._position = EpochPosition()
        return self._position

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # lazy, so it is no DataLoader iterator yet
        """Iterate over batches, from the place on where a stopped run was left."""
        sampler = self.sampler
        if isinstance(sampler, TrainSampler) and self.batch_size is not None:
            sampler.first = self.position.start(sampler.epoch) * self.batch_size
        for batch in super().__iter__():
            self.position.batch += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Give the position in the epoch, for a checkpoint."""
        return self.position.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over the position of a checkpoint."""
        self.position.load_state_dict(state)


def standard_loader(
    data: ImageDataset,
    sampler: TrainSampler | EvalSampler,
    *,
    batch_size: int,
    drop_last: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> StandardLoader:
    """Build a loader that fetches whole batches and never touches the global random state.

    Args:
        data: The images.
        sampler: The order, and this rank's share.
        batch_size: Images per batch on this rank.
        drop_last: Leave out a last batch that is not full.
        num_workers: Processes that fetch, 0 for this one; they are kept between epochs.
        pin_memory: Copy batches into pinned memory, for a faster way to a CUDA device.

    Returns:
        The loader; batches are images, float32 in [0, 1], and labels, int64.
    """
    return StandardLoader(
        data,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        collate_fn=_as_fetched,
        # DataLoader draws a seed for its workers, from the global state unless it is given a generator
        generator=torch.Generator().manual_seed(0),
    )


def _as_fetched(batch: Any) -> Any:  # noqa: ANN401  # DataLoader expects a list of samples here
    return batch
