"""Random crop and horizontal flip of a whole batch at once, on any device."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RandomCropFlip:
    """Pad, cut out a random window of the old size, and flip at random: one draw per image.

    Shifting a padded image by a few pixels and mirroring it is the standard augmentation of CIFAR (He et al., 2016,
    section 4.2: 4 pixels of zeros). What happens to an image is one integer, its variant, in ``[0, variants)``.
    Variants are drawn apart from being applied, so that a loader can draw those of a whole epoch at once and workers
    need no random state. Nothing here loops over images or waits for the device.

    Args:
        padding: Pixels added on each side, 0 or more.
        flip: Mirror left and right, for half of the images on average.
        mode: What the padding holds: ``"zeros"``, or ``"reflect"`` for the image mirrored at its border.

    Raises:
        ValueError: If ``padding`` is negative or ``mode`` is neither of the two.

    Example:
        >>> augment = RandomCropFlip(padding=4, flip=True)
        >>> augment.variants
        162
        >>> x = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> augment(x, torch.Generator().manual_seed(0)).shape
        torch.Size([8, 3, 32, 32])
    """

    padding: int
    flip: bool
    mode: Literal["zeros", "reflect"] = "zeros"

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise ValueError(f"padding must be 0 or more pixels, got {self.padding}.")
        if self.mode not in ("zeros", "reflect"):
            raise ValueError(f"mode must be 'zeros' or 'reflect', got {self.mode!r}.")

    @property
    def offsets(self) -> int:
        """Number of window positions along one axis: ``2 * padding + 1``."""
        return 2 * self.padding + 1

    @property
    def variants(self) -> int:
        """Number of different things that can happen to an image."""
        return self.offsets**2 * (2 if self.flip else 1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the variants of ``count`` images, int64 of shape ``(count,)``, on the generator's device."""
        return torch.randint(self.variants, (count,), generator=generator, device=generator.device)

    def apply(self, x: Tensor, variant: Tensor) -> Tensor:
        """Cut and flip images as their variants say.

        Variant ``v`` is the window whose upper left corner is pixel ``(v // o % o, v % o)`` of the padded image, where
        ``o`` is ``offsets``, flipped where ``v // o**2`` is 1.

        Args:
            x: Images of any dtype and range, of shape ``(N, C, H, W)``; left unchanged.
            variant: One integer in ``[0, variants)`` per image, int64 of shape ``(N,)``, on x's device.

        Returns:
            Images of x's shape, dtype and device.

        Raises:
            ValueError: If a side of the images is not longer than the padding that mirrors it.
        """
        height, width = x.shape[-2:]
        if self.mode == "reflect" and min(height, width) <= self.padding:
            raise ValueError(
                f"reflecting needs images larger than the padding of {self.padding} pixels, got {height}x{width}."
            )
        top, left = variant // self.offsets % self.offsets, variant % self.offsets
        # a view of all windows; indexing copies one per image
        windows = self._pad(x).unfold(2, height, 1).unfold(3, width, 1)
        cut = windows[torch.arange(len(x), device=x.device), :, top, left]
        if not self.flip:
            return cut
        flipped = (variant // self.offsets**2 == 1).view(-1, 1, 1, 1)
        return torch.where(flipped, cut.flip(-1), cut)

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a variant for every image of ``x`` of shape ``(N, C, H, W)``, and apply it.

        Args:
            x: Images of any dtype and range.
            generator: A generator on any device.

        Returns:
            Images of x's shape, dtype and device.
        """
        return self.apply(x, self.draw(len(x), generator).to(x.device, non_blocking=True))

    def _pad(self, x: Tensor) -> Tensor:
        if self.mode == "zeros":
            return torch.nn.functional.pad(x, (self.padding,) * 4)
        # by index: the reflecting pad of torch takes floating point only
        rows, columns = (self._reflected(length, x.device) for length in x.shape[-2:])
        return x[:, :, rows][:, :, :, columns]

    def _reflected(self, length: int, device: torch.device) -> Tensor:
        last = length - 1
        return last - (last - torch.arange(-self.padding, length + self.padding, device=device).abs()).abs()
