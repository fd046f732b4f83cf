"""Squares cut out of images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_advreg.augmentations.base import Augmentation
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class Cutout(Augmentation):
    """Cutout (DeVries & Taylor 2017, section 3.2): a square of each image is filled with one value.

    The centre is drawn evenly over all pixels, for each image on its own, so part of the square may lie outside.

    Args:
        size: The side of the square in pixels, at least 1. The paper has 16 for CIFAR-10 and 8 for CIFAR-100, of 32.
        fill: The value of the pixels, in [0, 1]. The paper fills with the mean of the data, near 0.5 for photographs;
            the background of digits is 0.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> x, y = torch.ones(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
        >>> holes, labels = Cutout(size=3, fill=0)(x, y)
        >>> bool(((x - holes).sum((1, 2, 3)) <= 9).all())
        True
    """

    size: int = 16
    fill: Number = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"size must be an integer of at least 1, got {self.size!r}.")
        object.__setattr__(self, "fill", to_float(self.fill, "fill", minimum=0, maximum=1))

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Give images with a hole each, and the labels as they are."""
        rows, columns = (self._covered(len(x), length, x.device) for length in x.shape[-2:])
        hole = rows[:, None, :, None] & columns[:, None, None, :]
        return x.masked_fill(hole, to_float(self.fill, "fill")), y

    def _covered(self, count: int, length: int, device: torch.device) -> Tensor:
        first = torch.randint(length, (count, 1), device=device) - self.size // 2
        place = torch.arange(length, device=device)
        return (place >= first) & (place < first + self.size)
