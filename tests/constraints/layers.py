"""Layers of every kind that has weights, and slow references for what constraints do to them."""

import torch
from torch import nn

# each layer, and its weight as a matrix with one row per unit
LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), lambda w: w),
    "embedding": (lambda: nn.Embedding(6, 4), lambda w: w),
    "conv": (lambda: nn.Conv2d(3, 8, 3), lambda w: w.reshape(8, -1)),
    "conv-grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2), lambda w: w.reshape(8, -1)),
    "conv1d": (lambda: nn.Conv1d(3, 8, 5), lambda w: w.reshape(8, -1)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 8, 3), lambda w: w.transpose(0, 1).reshape(8, -1)),
    "transposed-1d": (lambda: nn.ConvTranspose1d(3, 8, 3), lambda w: w.transpose(0, 1).reshape(8, -1)),
    "transposed-3d": (lambda: nn.ConvTranspose3d(3, 8, 2), lambda w: w.transpose(0, 1).reshape(8, -1)),
    # inputs 0-1 feed outputs 0-3, inputs 2-3 feed outputs 4-7
    "transposed-grouped": (
        lambda: nn.ConvTranspose2d(4, 8, 3, groups=2),
        lambda w: torch.cat([part.transpose(0, 1).reshape(4, -1) for part in w.chunk(2)]),
    ),
}


def groups(layer):
    return getattr(layer, "groups", 1)


def spectra(layer, rows):
    """Singular values of each group's matrix, by a plain decomposition of each."""
    return [torch.linalg.svdvals(part) for part in rows(layer.weight.detach()).chunk(groups(layer))]


def randomised(module, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module


def values(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def explicit_matrix(operation, shape):
    """The matrix of a linear map of images of a shape, column by column."""
    count = int(torch.tensor(shape).prod())
    basis = torch.eye(count, dtype=torch.float64).view(count, *shape)
    return operation(basis).flatten(1).T
