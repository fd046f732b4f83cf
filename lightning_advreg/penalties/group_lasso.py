"""A soft limit that drives whole units to zero."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from lightning_advreg.parameters import as_matrix, weights
from lightning_advreg.penalties.base import Coefficient
from lightning_advreg.penalties.closed_form import closed_form, nothing, wide
from lightning_advreg.penalties.weights import SelectedWeights
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True)
class GroupLasso(SelectedWeights):
    """The norms of units, ``weight * sum_g sqrt(|g|) * sqrt(||w_g||^2 + eps)`` (Yuan & Lin 2006, eq. 2.1).

    A unit g is a row of a matrix, an output channel of a convolution, or a row of an embedding, and ``|g|`` the number
    of its weights. Like the lasso for single weights, it drives the weights of a unit to zero together, which can then
    be cut out (Wen et al. 2016 for networks). ``eps`` makes the gradient of a unit at zero 0 instead of undefined.

    Args:
        weight: The coefficient, at least 0; a number or a schedule.
        eps: What is added to the squared norm, above 0.
        include_biases: Count biases and normalisation scales too, each by itself.
        pattern: The names of the parameters that count, such as ``"features.*"``, or several; None for all weights.

    Raises:
        ValueError: If ``weight`` is negative or ``eps`` is not above 0.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> round(GroupLasso(1.0)(layer).item(), 4)  # sqrt(2) * 5
        7.0711
    """

    weight: Coefficient
    _: KW_ONLY
    eps: Number = 1e-12

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eps", to_float(self.eps, "eps"))
        if to_float(self.eps, "eps") <= 0:
            raise ValueError(f"eps must be above 0, got {self.eps!r}; the default is 1e-12.")

    def terms(self, module: nn.Module) -> tuple[Tensor, ...]:
        """Give the sum of norms."""
        named = list(weights(module, include_biases=self.include_biases, pattern=self.pattern))
        if not named:
            return (nothing(module),)
        matrices = [as_matrix(module, name, weight) for name, weight in named]
        return (_sum_of_norms(matrices, to_float(self.eps, "eps")),)


def _sum_of_norms(matrices: Sequence[Tensor], eps: float) -> Tensor:
    rows = [m.detach() for m in matrices]
    sizes = [math.sqrt(m.shape[1]) for m in rows]
    # eps, too, would vanish in half precision
    dtype = wide(rows)
    norms = [torch.linalg.vector_norm(m, dim=1, dtype=dtype) for m in rows]
    torch._foreach_mul_(norms, norms)
    torch._foreach_add_(norms, eps)
    torch._foreach_sqrt_(norms)
    scaled = torch._foreach_mul(norms, sizes)
    value = torch.cat(scaled).sum()

    def gradient(grad: Tensor) -> list[Tensor]:
        factors = torch._foreach_mul(torch._foreach_reciprocal(norms), sizes)
        torch._foreach_mul_(factors, grad)
        # the factor of a unit at zero is too large for half precision
        return [(m * factor.unsqueeze(1)).to(m.dtype) for m, factor in zip(rows, factors, strict=True)]

    return closed_form(value, gradient, matrices)
