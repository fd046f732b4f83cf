"""Mixtures of two images, with labels to match."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_advreg.augmentations.base import Augmentation
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class _Mixing(Augmentation):
    alpha: Number = 1.0
    probability: Number = 1.0

    mixes_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        alpha = to_float(self.alpha, "alpha")
        if alpha <= 0:
            raise ValueError(f"alpha must be positive, got {self.alpha!r}; for no mixing leave it out.")
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "probability", to_float(self.probability, "probability", minimum=0, maximum=1))

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mix each image with its neighbour in the batch, and their labels in the same proportion.

        Raises:
            TypeError: If labels are not shares of classes ``(N, K)``.
        """
        if not y.is_floating_point() or y.dim() != 2:
            raise TypeError(
                f"{type(self).__name__} mixes labels, which must be shares of classes (N, K), got {y.dtype} of shape "
                f"{tuple(y.shape)}; give torch.nn.functional.one_hot(y, num_classes).float()."
            )
        # on the CPU, so that nobody waits for the device
        if torch.rand((), device="cpu").item() >= to_float(self.probability, "probability"):
            return x, y
        images, shares = self._transform(to_float(self.alpha, "alpha"))(x, y)
        return images, shares

    @abstractmethod
    def _transform(self, alpha: float) -> Any:  # noqa: ANN401
        """Give the transform of torchvision."""


@dataclass(frozen=True, kw_only=True)
class MixUp(_Mixing):
    """Mixup (Zhang et al. 2018, eq. 1): ``l x_i + (1 - l) x_j`` with the label ``l y_i + (1 - l) y_j``.

    ``l ~ Beta(alpha, alpha)`` is one for the batch. Each image is mixed with the one before it, so the batch must be in
    random order. The work is done by ``torchvision.transforms.v2.MixUp``.

    Args:
        alpha: How much is mixed, positive: 1 draws ``l`` evenly from [0, 1], smaller values keep images purer. The
            paper has 1 on CIFAR-10, 0.1 to 0.4 on ImageNet.
        probability: Of mixing a batch at all, in [0, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> x, shares = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.eye(2)
        >>> mixed, labels = MixUp(alpha=0.2)(x, shares)
        >>> torch.allclose(mixed.flatten(), labels[:, 1])  # as much of pixel 1 as of class 1
        True
    """

    def _transform(self, alpha: float) -> Any:  # noqa: ANN401
        from torchvision.transforms.v2 import MixUp as Transform

        return Transform(alpha=alpha)


@dataclass(frozen=True, kw_only=True)
class CutMix(_Mixing):
    """CutMix (Yun et al. 2019, eq. 1 and 2): a box of one image in place of that of another, labels by area.

    The box is one for the batch; before it is cut at the border it covers ``1 - l`` of the image, with
    ``l ~ Beta(alpha, alpha)``. The label is shared in proportion to the area that is really covered. Each image gets
    the box of the one before it, so the batch must be in random order. The work is done by
    ``torchvision.transforms.v2.CutMix``.

    Args:
        alpha: Positive; 1 in the paper, which draws ``l`` evenly from [0, 1].
        probability: Of mixing a batch at all, in [0, 1]; the paper has 0.5 on CIFAR and 1 on ImageNet.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> x, shares = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8), torch.eye(2)
        >>> mixed, labels = CutMix()(x, shares)
        >>> torch.allclose(mixed.mean((1, 2, 3)), labels[:, 1])  # as many pixels of 1 as of class 1
        True
    """

    def _transform(self, alpha: float) -> Any:  # noqa: ANN401
        from torchvision.transforms.v2 import CutMix as Transform

        return Transform(alpha=alpha)
