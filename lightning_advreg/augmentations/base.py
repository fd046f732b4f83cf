"""What every augmentation of a batch is."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Augmentation(ABC):
    """A random change of a training batch: from images and labels to images and labels.

    Random numbers come from PyTorch's generators, those of the CPU and of the images' device; whoever calls decides on
    their state, as the callback ``BatchAugmentation`` does. What is given is never written to.

    Attributes:
        mixes_labels: Whether labels change, so that they must be shares of classes ``(N, K)`` rather than indices.
    """

    mixes_labels: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            x: Images ``(N, C, H, W)`` in [0, 1].
            y: Labels: indices ``(N,)``, int64, or shares of classes ``(N, K)``, floating point with rows of sum 1.

        Returns:
            Images of x's shape, dtype and device in [0, 1], and labels of y's.
        """


class DiscriminatorAugmentation(ABC):
    """A random, differentiable change of the images that a discriminator sees, real and generated alike."""

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Augment images ``(N, C, H, W)``.

        Args:
            images: Images in [0, 1].

        Returns:
            Images of the same shape, through which gradients pass; they may leave [0, 1].
        """


def as_labels(y: Tensor) -> Tensor:
    """Give one class per image: labels as they are, or of shares of classes the largest.

    A network that predicts the shares of a mixed image exactly is then right about it.

    Args:
        y: Indices ``(N,)``, or shares ``(N, K)``.

    Returns:
        Indices ``(N,)``.

    Example:
        >>> import torch
        >>> as_labels(torch.tensor([[0.7, 0.3], [0.2, 0.8]]))
        tensor([0, 1])
    """
    return y.argmax(1) if y.is_floating_point() else y
