"""Images as they lie in memory, and as networks see them."""

from typing import Protocol, TypeAlias

import torch
from torch import Tensor

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Images, float32 in [0, 1] of shape ``(N, C, H, W)``, and labels, int64 of shape ``(N,)``."""


class Images(Protocol):
    """Images that can be asked for by their rows: a tensor, or files that are decoded when asked for."""

    def __len__(self) -> int:
        """Give the number of images."""

    def __getitem__(self, rows: Tensor, /) -> Tensor:
        """Give images ``(n, C, H, W)``, uint8 or float32 in [0, 1], for int64 rows ``(n,)``."""


def to_unit_range(x: Tensor) -> Tensor:
    """Turn pixels as stored into pixels as networks see them.

    Args:
        x: uint8, or floating point in [0, 1].

    Returns:
        float32 in [0, 1]: exactly ``x / 255``, correctly rounded, for uint8 on every device; x itself otherwise.

    Example:
        >>> to_unit_range(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    if x.dtype != torch.uint8:
        return x.to(torch.float32)
    # by a tensor on the device: CUDA turns division by a Python number into a product with its rounded reciprocal
    return x.to(torch.float32) / torch.full((), 255.0, device=x.device)
