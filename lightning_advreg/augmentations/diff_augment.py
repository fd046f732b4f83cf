"""Augmentation of what a discriminator sees, real and generated, through which the generator learns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_advreg.augmentations.base import DiscriminatorAugmentation
from lightning_advreg.values import Number, to_float

Change: TypeAlias = Literal["color", "translation", "cutout"]
"""One part of the policy, by the name it has in the paper."""

_BRIGHTNESS = 0.25
_SHIFT = 1 / 8
_HOLE = 1 / 2


@dataclass(frozen=True, kw_only=True)
class DiffAugment(DiscriminatorAugmentation):
    """Differentiable augmentation (Zhao et al. 2020, eq. 4 and 5): ``D(T(x))`` and ``D(T(G(z)))`` in both steps.

    Real and generated images pass the same random ``T`` in the discriminator's step and in the generator's. So the
    discriminator cannot learn few images by heart, and the generator does not learn to make augmented ones. Each image
    has parameters of its own:

    - ``color``: brightness ``x + b``, ``b ~ U(-1/4, 1/4)``; saturation ``m + s (x - m)`` with the mean ``m`` over the
      channels of a pixel and ``s ~ U(0, 2)``, for images of several channels; contrast ``m + c (x - m)`` with the mean
      ``m`` of the image and ``c ~ U(1/2, 3/2)``;
    - ``translation``: a shift of up to an eighth of height and width, the rest filled;
    - ``cutout``: a filled rectangle of half the height and width, its centre anywhere in the image.

    Values are not clipped to [0, 1], since no gradient passes where they are. All of it is differentiable twice, as
    gradient penalties need. Random numbers come from the generator of the images' device.

    Args:
        policy: What to change, in this order: ``color``, ``translation``, ``cutout``, or some of them.
        fill: The value of pixels that a shift or a rectangle leaves empty, in [0, 1]. The paper's code has mid-grey;
            the background of digits is 0.

    Raises:
        ValueError: If a name is unknown or occurs twice, there is none, or ``fill`` is outside [0, 1].

    Example:
        >>> images = torch.rand(4, 3, 16, 16, requires_grad=True)
        >>> augmented = DiffAugment(policy=("color", "translation"))(images)
        >>> augmented.shape, augmented.requires_grad
        (torch.Size([4, 3, 16, 16]), True)
    """

    policy: Sequence[Change] = ("color", "translation", "cutout")
    fill: Number = 0.5

    def __post_init__(self) -> None:
        names = (self.policy,) if isinstance(self.policy, str) else tuple(self.policy)
        allowed = get_args(Change)
        if not names or len(set(names)) < len(names) or any(name not in allowed for name in names):
            raise ValueError(
                f"policy must be some of {', '.join(allowed)}, each once at most, got {self.policy!r}; for no "
                "augmentation leave it out."
            )
        object.__setattr__(self, "policy", names)
        object.__setattr__(self, "fill", to_float(self.fill, "fill", minimum=0, maximum=1))

    def __call__(self, images: Tensor, probability: Tensor | None = None) -> Tensor:
        """Augment images.

        Args:
            images: Of shape ``(N, C, H, W)``, floating point in [0, 1].
            probability: With which each change is made to each image, one number in [0, 1] on the images' device; None
                makes all of them to all images.

        Returns:
            Images of the same shape and dtype, by which one can differentiate.

        Raises:
            ValueError: If images have another shape.
        """
        if images.dim() != 4:
            raise ValueError(f"DiffAugment takes images of shape (N, C, H, W), got {tuple(images.shape)}.")
        for name in self.policy:
            if name == "color":
                images = _coloured(images, probability)
            elif name == "translation":
                images = _translated(images, probability, to_float(self.fill, "fill"))
            else:
                images = _cut(images, probability, to_float(self.fill, "fill"))
        return images


def recoloured(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness, then saturation, then contrast, by a number of each for every image.

    Args:
        images: ``(N, C, H, W)``.
        brightness: What is added to each pixel, ``(N,)``.
        saturation: The factor of differences between the channels of a pixel, ``(N,)``; 1 changes nothing.
        contrast: The factor of differences to the mean of the image, ``(N,)``; 1 changes nothing.
    """
    b, s, c = (values.view(-1, 1, 1, 1) for values in (brightness, saturation, contrast))
    images = images + b
    if images.shape[1] > 1:
        grey = images.mean(1, keepdim=True)
        images = grey + s * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + c * (images - mean)


def shifted(images: Tensor, down: Tensor, right: Tensor, fill: float) -> Tensor:
    """Shift each image by whole pixels.

    Args:
        images: ``(N, C, H, W)``.
        down: By how many rows, int64 of shape ``(N,)``; negative for upwards.
        right: By how many columns, int64 of shape ``(N,)``.
        fill: The value of pixels that come from outside.
    """
    for dim, by in ((2, down), (3, right)):
        length = images.shape[dim]
        source = torch.arange(length, device=images.device) - by.view(-1, 1)
        place = source.view(len(images), 1, *((length, 1) if dim == 2 else (1, length)))
        # gather has a second derivative, which grid_sample lacks
        images = images.gather(dim, place.clamp(0, length - 1).expand_as(images))
        images = images.masked_fill((place < 0) | (place >= length), fill)
    return images


def with_holes(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int], fill: float) -> Tensor:
    """Fill a rectangle of each image, what of it lies inside.

    Args:
        images: ``(N, C, H, W)``.
        top: Its first row, int64 of shape ``(N,)``; may lie outside.
        left: Its first column, int64 of shape ``(N,)``.
        size: Its height and width.
        fill: What it is filled with.
    """
    rows, columns = (torch.arange(length, device=images.device) for length in images.shape[-2:])
    in_rows = (rows >= top.view(-1, 1)) & (rows < top.view(-1, 1) + size[0])
    in_columns = (columns >= left.view(-1, 1)) & (columns < left.view(-1, 1) + size[1])
    return images.masked_fill(in_rows[:, None, :, None] & in_columns[:, None, None, :], fill)


def _coloured(images: Tensor, probability: Tensor | None) -> Tensor:
    brightness = (_uniform(images) - 0.5) * (2 * _BRIGHTNESS)
    saturation, contrast = _uniform(images) * 2, _uniform(images) + 0.5
    return recoloured(
        images,
        _chosen(brightness, 0.0, probability),
        _chosen(saturation, 1.0, probability),
        _chosen(contrast, 1.0, probability),
    )


def _translated(images: Tensor, probability: Tensor | None, fill: float) -> Tensor:
    steps = [round(length * _SHIFT) for length in images.shape[-2:]]
    shape, device = (len(images),), images.device
    down, right = (torch.randint(-step, step + 1, shape, device=device) for step in steps)
    moved = _coin(down, probability)
    return shifted(images, down * moved, right * moved, fill)


def _cut(images: Tensor, probability: Tensor | None, fill: float) -> Tensor:
    height, width = images.shape[-2:]
    size = max(1, int(height * _HOLE)), max(1, int(width * _HOLE))
    shape, device = (len(images),), images.device
    top = torch.randint(height, shape, device=device) - size[0] // 2
    left = torch.randint(width, shape, device=device) - size[1] // 2
    # a rectangle below the image cuts nothing out of it
    return with_holes(images, _chosen(top, height, probability), left, size, fill)


def _uniform(images: Tensor) -> Tensor:
    return torch.rand(len(images), device=images.device, dtype=images.dtype)


def _chosen(values: Tensor, neutral: float, probability: Tensor | None) -> Tensor:
    """Give values with the probability, and else what changes nothing."""
    return values if probability is None else values.masked_fill(~_coin(values, probability), neutral)


def _coin(values: Tensor, probability: Tensor | None) -> Tensor:
    if probability is None:
        return torch.ones_like(values, dtype=torch.bool)
    return torch.rand(len(values), device=values.device) < probability
