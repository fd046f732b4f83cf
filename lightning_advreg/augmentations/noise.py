"""Gaussian noise on images."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_advreg.augmentations.base import Augmentation
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class InputNoise(Augmentation):
    """Gaussian noise on every pixel, ``clip(x + std * n, 0, 1)`` with ``n ~ N(0, I)``.

    Before clipping this is, to second order in ``std``, a penalty on the curvature of the loss by the image (Bishop
    1995, eq. 2.14: Tikhonov regularisation). Where pixels are 0 or 1, as in most of a digit, half of the noise is
    clipped.

    Args:
        std: The standard deviation, in units of pixels in [0, 1]; at least 0.

    Raises:
        ValueError: If ``std`` is negative.

    Example:
        >>> x, y = torch.full((2, 1, 64, 64), 0.5), torch.tensor([3, 7])
        >>> noisy, labels = InputNoise(std=0.1)(x, y)
        >>> noisy.shape, labels.tolist(), 0.09 < (noisy - x).std() < 0.11
        (torch.Size([2, 1, 64, 64]), [3, 7], tensor(True))
    """

    std: Number = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "std", to_float(self.std, "std", minimum=0))

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Give noisy images, and the labels as they are."""
        noise = torch.randn_like(x).mul_(to_float(self.std, "std"))
        return noise.add_(x).clamp_(0, 1), y
