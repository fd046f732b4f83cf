"""A data set that is asked for a whole batch at once."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_advreg.data.augment import RandomCropFlip
from lightning_advreg.data.generated import GeneratedData, joined
from lightning_advreg.data.pixels import Batch, Images, to_unit_range

Item: TypeAlias = int | tuple[int, int]
"""The index of an image, alone or with the variant of its augmentation (see ``TrainSampler``)."""


class ImageDataset(Dataset[Batch]):
    """A view of some rows of a set of images, augmented or not.

    Training and validation are two views of the same memory. Items are pairs (index, variant) in training and plain
    indices in evaluation; images asked for by a plain index are never augmented. Batches are fetched, augmented and
    converted to float32 as a whole.

    Args:
        images: Images, uint8 or float32 in [0, 1].
        labels: Class indices, int64, of shape ``(len(images),)``.
        rows: The rows of ``images`` in this view, int64; all of them by default.
        augment: What the variants mean; None for no augmentation.
        extra: Generated images, which follow the rows of this view: index ``len(self) + i`` is image ``i`` of them.
            In a batch they come last.

    Attributes:
        images: The images, shared with other views.
        labels: Their labels, shared with other views.
        rows: The rows of this view.

    Example:
        >>> data = ImageDataset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4), rows=torch.tensor([3, 1]))
        >>> image, label = data[0]
        >>> image.shape, image.dtype, label
        (torch.Size([1, 8, 8]), torch.float32, tensor(3))
    """

    def __init__(
        self,
        images: Images,
        labels: Tensor,
        *,
        rows: Tensor | None = None,
        augment: RandomCropFlip | None = None,
        extra: GeneratedData | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.rows = torch.arange(len(images)) if rows is None else rows
        self.augment = augment
        self.extra = extra

    def __len__(self) -> int:
        """Give the number of images in this view, without generated ones."""
        return len(self.rows)

    def __getitem__(self, item: Item) -> Batch:
        """Give one image, float32 ``(C, H, W)`` in [0, 1], and its label, int64 without dimensions."""
        x, y = self.__getitems__([item])
        return x[0], y[0]

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """Give a batch: images, float32 ``(N, C, H, W)`` in [0, 1], and labels, int64 ``(N,)``."""
        wanted = torch.tensor(items)
        x, y = self._fetch(wanted if wanted.dim() == 1 else wanted[:, 0])
        if self.augment is not None and wanted.dim() == 2:
            x = self.augment.apply(x, wanted[:, 1])
        return to_unit_range(x), y

    def _fetch(self, indices: Tensor) -> Batch:
        if self.extra is None:
            rows = self.rows[indices]
            return self.images[rows], self.labels[rows]
        generated = indices >= len(self)
        rows = self.rows[indices[~generated]]
        images, labels = self.extra.fetch(indices[generated] - len(self))
        return joined(self.images[rows], images), torch.cat([self.labels[rows], labels])
