"""What takes the place of normalisation: standardised weights, and the learned scale and shift alone."""

import math

import torch
from torch import Tensor, nn

RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
"""What makes the variance of a rectified standard normal 1 again, about 1.71 (Brock et al. 2021a, section 4.2)."""

_EPS = 1e-4


def standardized(weight: Tensor) -> Tensor:
    """Standardise a kernel: ``gain (W - mean) / sqrt(N var)``, with mean and variance over the N inputs of each unit.

    Each unit then has zero mean and norm ``gain``, so that standard normal features that went through a rectifier come
    out with unit variance, as normalisation would make them, and without a statistic of the batch. Sources: weight
    standardisation, Qiao et al. (2019), equation 5; scaled so, Brock et al. (2021a), equation 1, with the ``gain`` of
    the rectifier, :data:`RELU_GAIN`.

    Args:
        weight: The kernel ``(out, in, ...)``, of two inputs or more per unit.

    Returns:
        The standardised kernel, of the shape of ``weight``.

    Example:
        >>> kernel = standardized(torch.randn(4, 3, 5, 5))
        >>> torch.allclose(kernel.flatten(1).norm(dim=1), torch.full((4,), RELU_GAIN), atol=1e-3)
        True
    """
    over = tuple(range(1, weight.dim()))
    variance, mean = torch.var_mean(weight, over, correction=0, keepdim=True)
    inputs = weight[0].numel()
    return (weight - mean) * (RELU_GAIN * torch.rsqrt(variance * inputs + _EPS))


class StandardizedConv1d(nn.Conv1d):
    """A ``Conv1d`` whose kernel is standardised in every pass; see :func:`standardized`.

    Example:
        >>> StandardizedConv1d(2, 3, 5)(torch.rand(1, 2, 5)).shape
        torch.Size([1, 3, 1])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, standardized(weight), bias)


class StandardizedConv2d(nn.Conv2d):
    """A ``Conv2d`` whose kernel is standardised in every pass; see :func:`standardized`.

    Example:
        >>> StandardizedConv2d(2, 3, 5)(torch.rand(1, 2, 5, 5)).shape
        torch.Size([1, 3, 1, 1])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, standardized(weight), bias)


class StandardizedConv3d(nn.Conv3d):
    """A ``Conv3d`` whose kernel is standardised in every pass; see :func:`standardized`.

    Example:
        >>> StandardizedConv3d(2, 3, 1)(torch.rand(1, 2, 1, 1, 1)).shape
        torch.Size([1, 3, 1, 1, 1])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, standardized(weight), bias)


_STANDARDIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: StandardizedConv1d,
    nn.Conv2d: StandardizedConv2d,
    nn.Conv3d: StandardizedConv3d,
}
_PLAIN = {changed: plain for plain, changed in _STANDARDIZED.items()}


def standardize_(layer: nn.Module) -> bool:
    """Let a convolution of PyTorch standardise its kernel from now on; it stays the object that it is.

    Args:
        layer: The layer. Only ``Conv1d``, ``Conv2d`` and ``Conv3d`` themselves are changed, since a subclass may not
            use its weight as they do, and of these only those with two inputs or more per unit.

    Returns:
        Whether it standardises its kernel now.

    Example:
        >>> conv = nn.Conv2d(1, 2, 3)
        >>> standardize_(conv), type(conv).__name__, standardize_(nn.Linear(2, 2))
        (True, 'StandardizedConv2d', False)
    """
    weight = getattr(layer, "weight", None)
    if type(layer) in _STANDARDIZED and isinstance(weight, Tensor) and weight[0].numel() > 1:
        # the class alone, as torch.nn.utils.parametrize does it, which would rename the weight as well
        layer.__class__ = _STANDARDIZED[type(layer)]
    return type(layer) in _PLAIN


def unstandardize_(layer: nn.Module) -> None:
    """Take :func:`standardize_` back.

    Args:
        layer: Any layer.

    Example:
        >>> conv = nn.Conv2d(1, 2, 3)
        >>> _ = standardize_(conv)
        >>> unstandardize_(conv)
        >>> type(conv).__name__
        'Conv2d'
    """
    layer.__class__ = _PLAIN.get(type(layer), type(layer))


class NoNorm(nn.Module):
    """What is left of a normalisation layer without the normalisation: ``weight x + bias`` for each channel.

    The learned scale is the gain of a unit whose weights are standardised (Brock et al. 2021a, section 4.3).

    Args:
        num_features: The number of channels.

    Example:
        >>> NoNorm(2)(torch.ones(1, 2, 1, 1)).flatten().tolist()
        [1.0, 1.0]
    """

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift features ``(N, C, ...)``."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        # a tensor of its own in any case: an activation in place must not overwrite the input of a skip connection
        y = x.clone() if self.weight is None else x * self.weight.view(shape)
        return y if self.bias is None else y + self.bias.view(shape)

    def extra_repr(self) -> str:
        """Show the number of channels."""
        return f"{self.num_features}"
