"""What updates are given, checked without waiting for the device."""

import torch
from torch import Tensor


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """Tell which images are classified correctly.

    Args:
        logits: Floating point, of shape ``(N, K)``.
        y: Labels, integers of shape ``(N,)``.

    Returns:
        Whether the largest logit is that of the label, bool of shape ``(N,)``.

    Raises:
        ValueError: If shapes disagree. Broadcasting would hide it.
    """
    if logits.dim() != 2 or y.shape != logits.shape[:1]:
        raise ValueError(
            f"logits and labels must have shapes (N, K) and (N,), got {tuple(logits.shape)} and {tuple(y.shape)}."
        )
    return logits.argmax(1) == y


def check_mask(name: str, mask: Tensor, count: int | None = None) -> None:
    """Check that a mask says yes or no for each image.

    Args:
        name: The argument's name, for the error message.
        mask: What should be bool of shape ``(count,)``.
        count: The number of images; None for any number.

    Raises:
        ValueError: If ``mask`` has another dtype or shape. Numbers and broadcasting would hide either.
    """
    if mask.dtype != torch.bool or mask.dim() != 1 or (count is not None and len(mask) != count):
        shape = "(N,)" if count is None else f"({count},)"
        raise ValueError(f"{name} must be a bool mask of shape {shape}, got {mask.dtype} of shape {tuple(mask.shape)}.")
