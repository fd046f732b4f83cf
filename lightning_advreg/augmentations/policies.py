"""Policies that draw their operations from a list: AugMix and TrivialAugment, as torchvision has them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_advreg.augmentations.base import Augmentation
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class _Policy(Augmentation):
    shared_by: int = 1

    def __post_init__(self) -> None:
        _check_count("shared_by", self.shared_by)

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Give augmented images, and the labels as they are.

        Raises:
            ValueError: If images have neither one channel nor three.
        """
        if x.dim() != 4 or x.shape[1] not in (1, 3):
            raise ValueError(
                f"{type(self).__name__} takes images (N, C, H, W) of 1 or 3 channels, got shape {tuple(x.shape)}; its "
                "operations on colours are defined for these alone."
            )
        transform = self._transform()
        # bytes: what the operations of torchvision are defined for
        parts = [transform(part) for part in (x * 255).round().to(torch.uint8).split(self.shared_by)]
        return torch.cat(parts).to(x.dtype) / 255, y

    @abstractmethod
    def _transform(self) -> Any:  # noqa: ANN401
        """Give the transform of torchvision."""


@dataclass(frozen=True, kw_only=True)
class AugMix(_Policy):
    """AugMix (Hendrycks et al. 2020, algorithm 1): ``m x + (1 - m) sum_i w_i chain_i(x)``.

    Chains of one to three operations are mixed with ``w ~ Dirichlet(alpha)`` and with the image by
    ``m ~ Beta(alpha, alpha)``. With the penalty ``JensenShannon`` it is the method of the paper. The work is done by
    ``torchvision.transforms.v2.AugMix``; images are rounded to 8 bits for it.

    Args:
        shared_by: How many images of a batch share their operations; mixing weights are each image's own. 1 is the
            paper's; more are faster in proportion.
        severity: How strong operations are, from 1 to 10.
        width: The number of chains.
        alpha: Of the Dirichlet and the Beta distribution, positive.
        all_ops: Use brightness, contrast, colour and sharpness too, which the paper leaves out since they are among the
            corruptions that it tests on.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> x = torch.rand(2, 3, 8, 8)
        >>> AugMix(severity=1)(x, torch.tensor([0, 1]))[0].shape
        torch.Size([2, 3, 8, 8])
    """

    severity: int = 3
    width: int = 3
    alpha: Number = 1.0
    all_ops: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_count("severity", self.severity, most=10)
        _check_count("width", self.width)
        alpha = to_float(self.alpha, "alpha")
        if alpha <= 0:
            raise ValueError(f"alpha must be positive, got {self.alpha!r}.")
        object.__setattr__(self, "alpha", alpha)

    def _transform(self) -> Any:  # noqa: ANN401
        from torchvision.transforms.v2 import AugMix as Transform

        return Transform(
            severity=self.severity,
            mixture_width=self.width,
            alpha=to_float(self.alpha, "alpha"),
            all_ops=self.all_ops,
        )


@dataclass(frozen=True, kw_only=True)
class TrivialAugment(_Policy):
    """TrivialAugment (Müller & Hutter 2021, wide space): one random operation at a random strength for each image.

    The work is done by ``torchvision.transforms.v2.TrivialAugmentWide``; images are rounded to 8 bits for it.

    Args:
        shared_by: How many images of a batch share an operation. 1 is the paper's; more are faster in proportion.

    Raises:
        ValueError: If ``shared_by`` is less than 1.

    Example:
        >>> x = torch.rand(2, 1, 8, 8)
        >>> TrivialAugment()(x, torch.tensor([0, 1]))[0].shape
        torch.Size([2, 1, 8, 8])
    """

    def _transform(self) -> Any:  # noqa: ANN401
        from torchvision.transforms.v2 import TrivialAugmentWide

        return TrivialAugmentWide()


def _check_count(name: str, count: int, most: int | None = None) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1 or (most is not None and count > most):
        allowed = "of at least 1" if most is None else f"from 1 to {most}"
        raise ValueError(f"{name} must be an integer {allowed}, got {count!r}.")
