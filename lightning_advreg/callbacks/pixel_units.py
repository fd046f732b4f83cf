"""From images as a foreign project has them to pixels in [0, 1], and back."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.checks import RANGE_TOLERANCE
from lightning_advreg.networks.base import Normalize

_ROUNDING = 1e-2
"""How far outside [0, 1] pixels may lie after a normalisation is undone, since half precision rounded them."""


class PixelUnits:
    """What images were normalised with, if anything.

    Args:
        mean: What was subtracted from each channel, in [0, 1]; None for images in [0, 1].
        std: What each channel was divided by then, positive.
        owner: The callback that has these arguments, for messages.

    Raises:
        ValueError: If one is given without the other.

    Example:
        >>> units = PixelUnits((0.5,), (0.25,), "BatchAugmentation")
        >>> pixels = units.pixels(torch.full((1, 1, 1, 1), 2.0))
        >>> pixels.item(), units.as_given(pixels, torch.float32).item()
        (1.0, 2.0)
    """

    def __init__(self, mean: Sequence[float] | None, std: Sequence[float] | None, owner: str) -> None:
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std must be given together; got mean={mean!r}, std={std!r}.")
        self._normalize = None if mean is None or std is None else Normalize(mean, std)
        self._owner = owner

    @property
    def normalised(self) -> bool:
        """Whether images were normalised at all."""
        return self._normalize is not None

    @property
    def tolerance(self) -> float:
        """How far outside [0, 1] pixels may lie."""
        return RANGE_TOLERANCE if self._normalize is None else _ROUNDING

    def pixels(self, x: Tensor) -> Tensor:
        """Give pixels in [0, 1], from images ``(N, C, H, W)`` as the batch has them.

        Raises:
            ValueError: If images have another number of channels than ``mean``.
        """
        if self._normalize is None:
            return x
        channels = self._normalize.mean.shape[1]
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(
                f"mean and std of {self._owner} have {channels} values, one per channel, but images have shape "
                f"{tuple(x.shape)}, expected (N, {channels}, H, W)."
            )
        self._normalize.to(x.device)
        return working_precision(x) * self._normalize.std + self._normalize.mean

    def as_given(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """Give images as the batch had them, from pixels in [0, 1]."""
        return (pixels if self._normalize is None else self._normalize.to(pixels.device)(pixels)).to(dtype)

    def clean(self, x: Tensor) -> Tensor:
        """Give pixels in [0, 1], where what rounding put outside is clipped, and all else left for a check to find."""
        pixels = self.pixels(x)
        if self._normalize is None:
            return pixels
        clipped = pixels.clamp(0, 1)
        return torch.where((pixels - clipped).abs() <= self.tolerance, clipped, pixels)

    def seen_by(self, model: nn.Module, dtype: torch.dtype) -> nn.Module:
        """Give a model as an attack sees it: from pixels in [0, 1] to logits.

        Args:
            model: From images as the batch has them to logits.
            dtype: That of the batch.
        """
        return model if self._normalize is None else FromPixels(model, self, dtype)

    def check(self, pixels: Tensor) -> None:
        """Check that pixels lie in [0, 1], up to rounding.

        Raises:
            TypeError: If they are not floating point.
            ValueError: If they lie outside.
        """
        if not pixels.is_floating_point():
            raise TypeError(
                f"images must be floating point in [0, 1], got {pixels.dtype}; convert with x.float() / 255."
            )
        low, high = (bound.item() for bound in pixels.aminmax())
        # written so that NaN fails too
        if not (low >= -self.tolerance and high <= 1 + self.tolerance):
            raise ValueError(
                f"{self._owner} takes pixels in [0, 1], but those of the first batch go from {low:g} to "
                f"{high:g}. Give the numbers that the data are normalised with, {self._owner}(..., mean=(...), "
                "std=(...)), one per channel, in units of [0, 1]; if pixels go up to 255, divide by 255 in the data."
            )


class FromPixels(nn.Module):
    """A model that takes normalised images, as an attack sees it.

    Args:
        model: From images as the batch has them to logits.
        units: What images were normalised with.
        dtype: That of the batch.
    """

    def __init__(self, model: nn.Module, units: PixelUnits, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.units, self.dtype = model, units, dtype
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        """Give logits ``(N, K)`` for pixels ``(N, C, H, W)`` in [0, 1]."""
        # attacks give float32 at least: what is less comes for a copy of the model in that precision
        dtype = x.dtype if x.dtype.itemsize < torch.float32.itemsize else self.dtype
        logits: Tensor = self.model(self.units.as_given(x, dtype))
        return logits


def dtype_of(module: nn.Module) -> torch.dtype:
    """Give the dtype of a module's weights, in which Lightning hands it its images."""
    return next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)
