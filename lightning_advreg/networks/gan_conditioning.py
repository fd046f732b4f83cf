"""Layers that know the class: conditional BatchNorm, and labels as input."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConditionalBatchNorm(nn.Module):
    """What ``ConditionalBatchNorm1d`` and ``ConditionalBatchNorm2d`` share; they differ in the BatchNorm inside."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, num_classes: int) -> None:
        super().__init__()
        # inside, rather than a subclass of it: SyncBatchNorm can take its place there
        self.norm = norm
        self.num_classes = num_classes
        # one dimension, as the scales of other norms have: weight decay and limits on weights leave them alone
        self.weight = nn.Parameter(torch.ones(num_classes * norm.num_features))
        self.bias = nn.Parameter(torch.zeros(num_classes * norm.num_features))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Give features of the shape of ``x``.

        Args:
            x: Features ``(N, C)`` or ``(N, C, H, W)``.
            y: Labels ``(N,)``, int64 in ``[0, num_classes)``.

        Returns:
            The features, normalised, then scaled and shifted by what the class of each row has learned.
        """
        x = self.norm(x)
        shape = (*x.shape[:2], *[1] * (x.dim() - 2))
        scale, shift = (F.embedding(y, p.view(self.num_classes, -1)).to(x.dtype) for p in (self.weight, self.bias))
        return torch.addcmul(shift.view(shape), x, scale.view(shape))


class ConditionalBatchNorm1d(ConditionalBatchNorm):
    """``ConditionalBatchNorm2d`` for feature vectors ``(N, C)``.

    Args:
        num_features: The number C of features.
        num_classes: The number of classes.

    Example:
        >>> ConditionalBatchNorm1d(4, num_classes=10)(torch.rand(2, 4), torch.tensor([3, 7])).shape
        torch.Size([2, 4])
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(nn.BatchNorm1d(num_features, affine=False), num_classes)


class ConditionalBatchNorm2d(ConditionalBatchNorm):
    """BatchNorm whose scale and shift depend on the class: ``weight[y] * normalised(x) + bias[y]``.

    Statistics are those of all classes together. Scales begin at 1 and shifts at 0, so that at first it is BatchNorm.
    Sources: de Vries et al. (2017), section 4.2; in generators, Miyato & Koyama (2018).

    Args:
        num_features: The number C of channels.
        num_classes: The number of classes.

    Attributes:
        weight: Scales ``(num_classes * C,)``, class after class.
        bias: Shifts ``(num_classes * C,)``.

    Example:
        >>> norm = ConditionalBatchNorm2d(4, num_classes=10)
        >>> norm(torch.rand(2, 4, 8, 8), torch.tensor([3, 7])).shape
        torch.Size([2, 4, 8, 8])
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(nn.BatchNorm2d(num_features, affine=False), num_classes)


class LabelledSequential(nn.Sequential):
    """``nn.Sequential`` that hands the labels to those of its layers that depend on them.

    Example:
        >>> layers = LabelledSequential(ConditionalBatchNorm1d(4, num_classes=10), nn.ReLU())
        >>> layers(torch.rand(2, 4), torch.tensor([3, 7])).shape
        torch.Size([2, 4])
    """

    def forward(self, input: Tensor, y: Tensor | None = None) -> Tensor:
        """Give what the last layer gives."""
        for layer in self:
            input = apply_layer(layer, input, y)
        return input


def apply_layer(layer: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
    """Call a layer, with the labels if it is a conditional normalisation."""
    output: Tensor = layer(x, y) if isinstance(layer, ConditionalBatchNorm) else layer(x)
    return output


class LabelVector(nn.Module):
    """Append a learned vector of the class to vectors, or to images laid out flat.

    The vector is as long as there are classes, which lets the next layer treat each class on its own, and begins
    standard normal, as noise is.

    Args:
        num_classes: The number of classes.

    Example:
        >>> LabelVector(10)(torch.rand(2, 4), torch.tensor([3, 7])).shape
        torch.Size([2, 14])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, num_classes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Give ``(N, F + num_classes)`` for ``(N, ...)`` with F numbers each, and labels ``(N,)``."""
        return torch.cat([x.flatten(1), self.embedding(y)], dim=1)


class LabelChannel(nn.Module):
    """Append a learned picture of the class to images, as one more channel; it begins standard normal.

    Args:
        num_classes: The number of classes.
        size: Height and width of the images.

    Example:
        >>> LabelChannel(10, (8, 8))(torch.rand(2, 3, 8, 8), torch.tensor([3, 7])).shape
        torch.Size([2, 4, 8, 8])
    """

    def __init__(self, num_classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, size[0] * size[1])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Give ``(N, C + 1, H, W)`` for images ``(N, C, H, W)`` and labels ``(N,)``."""
        return torch.cat([x, self.embedding(y).view(-1, 1, *x.shape[2:])], dim=1)
