"""Weights seen as units with their incoming weights, and as matrices."""

from typing import TypeGuard

import torch
from torch import Tensor, nn

from lightning_advreg.parameters import as_matrix

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
"""Layers whose kernels come in groups."""


def owner(module: nn.Module, name: str) -> nn.Module:
    """Give the layer that holds a parameter.

    Args:
        module: The network.
        name: The name of the parameter in it.
    """
    return module.get_submodule(name.rpartition(".")[0])


def is_convolution(layer: nn.Module, weight: Tensor) -> TypeGuard[Convolution]:
    """Tell whether a parameter is the kernel of a convolution, transposed or not, rather than its bias."""
    return isinstance(layer, Convolution) and weight.dim() > 2


def is_transposed(layer: nn.Module) -> bool:
    """Tell whether a layer is a transposed convolution, which stores inputs before outputs."""
    return isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)


def rows(module: nn.Module, name: str, weight: Tensor) -> tuple[Tensor, list[int]]:
    """Give a view of a weight, and the dimensions of it that make up one unit's incoming weights.

    A unit is a row of a matrix, an output channel of a convolution, or a row of an embedding. Each entry of a bias or a
    scale counts as a unit.

    Args:
        module: The network.
        name: The name of the weight in it.
        weight: The weight.

    Example:
        >>> up = nn.ConvTranspose2d(4, 6, 3, groups=2)
        >>> view, dims = rows(up, "weight", up.weight)
        >>> torch.linalg.vector_norm(view, dim=dims).shape  # group and channel in it
        torch.Size([2, 3])
    """
    if weight.dim() < 2:
        return weight.view(-1, 1), [1]
    layer = owner(module, name)
    if is_convolution(layer, weight) and is_transposed(layer):
        # (in, out / groups, ...), where a group of inputs has outputs of its own; all others store (out, in, ...)
        view = weight.unflatten(0, (layer.groups, -1))
        return view, [1, *range(3, view.dim())]
    return weight, list(range(1, weight.dim()))


def matrices(module: nn.Module, name: str, weight: Tensor) -> Tensor:
    """Give a weight as matrices from inputs to units, one for each group of a convolution, in float32 at least.

    Args:
        module: The network.
        name: The name of the weight in it.
        weight: The weight, of two dimensions or more.

    Returns:
        ``(groups, units in a group, weights of a unit)``; a copy where a view is not possible.

    Example:
        >>> conv = nn.Conv2d(4, 6, 3, groups=2)
        >>> matrices(conv, "weight", conv.weight).shape
        torch.Size([2, 3, 18])
    """
    layer = owner(module, name)
    groups = layer.groups if is_convolution(layer, weight) else 1
    matrix = as_matrix(module, name, weight).unflatten(0, (groups, -1))
    return matrix.to(torch.promote_types(weight.dtype, torch.float32))


def write_(module: nn.Module, name: str, weight: Tensor, values: Tensor) -> None:
    """Put matrices as :func:`matrices` gives them into a weight, in place."""
    layer = owner(module, name)
    if is_convolution(layer, weight) and is_transposed(layer):
        weight.copy_(values.unflatten(2, (-1, *weight.shape[2:])).transpose(1, 2).reshape(weight.shape))
    else:
        weight.copy_(values.reshape(weight.shape))
