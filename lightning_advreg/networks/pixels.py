"""Pixels: the statistics with which classifiers normalise them, and their 256 levels in files."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_advreg.networks.base import Normalize

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
"""Per-channel mean of the CIFAR-10 training images, in [0, 1]."""

CIFAR10_STD = (0.2470, 0.2435, 0.2616)
"""Per-channel standard deviation of the CIFAR-10 training images, in [0, 1]."""


def make_normalize(
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    in_channels: int,
    default: tuple[Sequence[float], Sequence[float]] | None = None,
) -> nn.Module:
    """Make the first layer of a network.

    Args:
        mean: One value per channel, or None for the default.
        std: One positive value per channel, or None for the default.
        in_channels: The number of channels.
        default: Mean and standard deviation when neither is given. They apply only to as many channels as they have.

    Returns:
        ``Normalize``, or the identity when neither is given and no default fits.

    Raises:
        ValueError: If only one of the two is given, or their length is not ``in_channels``.

    Example:
        >>> make_normalize(None, None, 1, default=(CIFAR10_MEAN, CIFAR10_STD))
        Identity()
    """
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be given together; got mean={mean!r}, std={std!r}.")
    if mean is not None and std is not None:
        if len(mean) != in_channels or len(std) != in_channels:
            raise ValueError(
                f"mean and std need one value for each of the {in_channels} channels (in_channels); "
                f"got mean={mean!r}, std={std!r}."
            )
        return Normalize(mean, std)
    if default is not None and len(default[0]) == in_channels:
        return Normalize(*default)
    return nn.Identity()


def to_bytes(images: Tensor) -> Tensor:
    """Round pixels in [0, 1] to the nearest of 256 levels, as a file of images holds them.

    Args:
        images: Floating point; what lies outside [0, 1] is taken to its bounds.

    Returns:
        uint8 of the same shape.

    Example:
        >>> to_bytes(torch.tensor([-0.1, 0.0, 0.499, 0.999, 1.2])).tolist()
        [0, 0, 127, 255, 255]
    """
    return (images.float() * 255).round().clamp(0, 255).to(torch.uint8)
