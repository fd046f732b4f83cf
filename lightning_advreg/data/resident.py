"""The resident loader: all images on the device, batches cut and augmented there."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_advreg.data.augment import RandomCropFlip
from lightning_advreg.data.generated import GeneratedData, joined
from lightning_advreg.data.pixels import Batch, to_unit_range
from lightning_advreg.data.position import EpochPosition
from lightning_advreg.data.samplers import EvalSampler, TrainSampler, train_sampler


class ResidentLoader:
    """Batches of images that stay on the device as uint8.

    An epoch moves two integers per image to the device; batches are then cut, cropped, flipped and converted there,
    with no worker process and no wait for the host. CIFAR-10 takes 150 MB. Order and augmentation are those of the
    standard loader, image for image, and depend on seed and epoch alone. Lightning calls ``set_epoch`` on
    :attr:`sampler`, and saves the position in the epoch with its checkpoints.

    Args:
        images: uint8, or float32 in [0, 1], of shape ``(N, C, H, W)``.
        labels: int64 of shape ``(N,)``.
        batch_size: Images per batch on this rank.
        rows: The rows of ``images`` that belong to this loader, int64; all by default.
        shuffle: A new order in each epoch, and an equal number of images on every rank: the last ``len(rows) %
            world_size`` images of the order are left out in that epoch. Without it, every image comes exactly once over
            all ranks, in order.
        augment: Random crop and flip; needs ``shuffle``.
        seed: 0 or more.
        rank: This process, in ``[0, world_size)``.
        world_size: Number of processes.
        drop_last: Leave out a last batch that is not full.
        device: Where images lie and batches come out; that of ``images`` by default.
        extra: Generated images, which join each batch as its last ones; needs ``shuffle``. They stay where they are,
            and those of a batch go to the device.

    Raises:
        ValueError: If ``augment`` or ``extra`` is given without ``shuffle``, there are fewer images than processes, or
            a batch has no room for real and generated images.

    Attributes:
        sampler: Order and share of this rank.
        batch_sampler: Always None; Lightning looks for it beside ``sampler``.

    Example:
        >>> images = torch.randint(256, (10, 3, 32, 32), dtype=torch.uint8)
        >>> loader = ResidentLoader(images, torch.arange(10), batch_size=4, shuffle=True, drop_last=True)
        >>> [(x.shape[0], x.dtype) for x, y in loader]
        [(4, torch.float32), (4, torch.float32)]
    """

    batch_sampler: None = None

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        rows: Tensor | None = None,
        shuffle: bool = False,
        augment: RandomCropFlip | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        extra: GeneratedData | None = None,
    ) -> None:
        if augment is not None and not shuffle:
            raise ValueError("augment is for training and needs shuffle=True; evaluation images are never augmented.")
        if extra is not None and not shuffle:
            raise ValueError("extra is for training and needs shuffle=True; evaluation images are never generated.")
        self.images = images.to(device)
        self.labels = labels.to(self.images.device)
        self.rows = torch.arange(len(images)) if rows is None else rows.cpu()
        self.batch_size = batch_size
        self.augment = augment
        self.drop_last = drop_last
        self.extra = extra
        self._real, self._extra = (batch_size, 0) if extra is None else extra.counts(batch_size)
        total = len(self.rows)
        self.sampler: TrainSampler | EvalSampler
        if shuffle:
            self.sampler = train_sampler(
                total,
                extra=extra,
                batch_size=batch_size,
                variants=1 if augment is None else augment.variants,
                seed=seed,
                rank=rank,
                world_size=world_size,
            )
        else:
            self.sampler = EvalSampler(total, rank=rank, world_size=world_size)
        self._position = EpochPosition()

    def __len__(self) -> int:
        """Give the number of batches of an epoch on this rank."""
        images = len(self.sampler)
        return images // self.batch_size if self.drop_last else -(-images // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over batches on the device, from the place on where a stopped run was left."""
        first = self._position.start(self.sampler.epoch)
        indices, variants = self.sampler.plan()
        device = self.images.device
        generated = indices >= len(self.rows)
        rows = self.rows[indices[~generated]].to(device)
        extra_rows = indices[generated] - len(self.rows)
        variants = None if variants is None else variants.to(device)
        for batch in range(first, len(self)):
            mine = rows[batch * self._real : (batch + 1) * self._real]
            x, y = self.images[mine], self.labels[mine]
            if self.extra is not None:
                images, labels = self.extra.fetch(extra_rows[batch * self._extra : (batch + 1) * self._extra])
                x, y = joined(x, _moved(images, device)), torch.cat([y, _moved(labels, device)])
            if self.augment is not None and variants is not None:
                x = self.augment.apply(x, variants[batch * self.batch_size : (batch + 1) * self.batch_size])
            self._position.batch = batch + 1
            yield to_unit_range(x), y

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning does this through :attr:`sampler`."""
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Give the position in the epoch, for a checkpoint."""
        return self._position.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over the position of a checkpoint."""
        self._position.load_state_dict(state)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    # from pinned memory the copy does not wait for the device
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
