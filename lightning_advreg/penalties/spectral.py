"""A soft limit on how much a layer can stretch its input."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_advreg.parameters import Pattern, as_matrix
from lightning_advreg.penalties.base import Coefficient, as_coefficient
from lightning_advreg.penalties.closed_form import closed_form, nothing, wide
from lightning_advreg.penalties.stateful import RememberingPenalty


class SpectralNormPenalty(RememberingPenalty):
    """Half the squared spectral norms of weights, ``weight / 2 * sum_W sigma(W)^2`` (Yoshida & Miyato 2017, eq. 3).

    ``sigma`` is the largest singular value of a weight as a matrix ``(out, rest)``. For a convolution this is the
    kernel laid out flat, and not the operator on images, whose norm is another one. Each step improves an estimate by
    power iteration from where the last one ended: ``v = W'u / ||W'u||``, ``sigma = ||W v||``, ``u = W v / sigma``,
    with the gradient ``sigma u v'``. In eval mode, and without gradients, ``u`` stays.

    Args:
        weight: The coefficient, at least 0; a number or a schedule.
        iterations: Power iterations in each step, at least 1.
        pattern: The names of the weights that count, such as ``"features.*"``, or several; None for all.

    Raises:
        ValueError: If ``weight`` is negative or ``iterations`` less than 1.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        >>> round(SpectralNormPenalty(1.0)(layer).item(), 4)
        4.5
    """

    def __init__(self, weight: Coefficient, *, iterations: int = 1, pattern: Pattern = None) -> None:
        super().__init__(pattern=pattern)
        self.weight = as_coefficient(weight, "weight")
        if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
            raise ValueError(f"iterations must be an integer of at least 1, got {iterations!r}.")
        self.iterations = iterations

    def remembered(self, module: nn.Module, name: str, weight: Tensor) -> Tensor:
        """Give an estimate of the first left singular vector, after 20 iterations."""
        matrix = as_matrix(module, name, weight)
        matrix = matrix.to(wide([matrix]))
        # a generator of its own, on the CPU: training draws the same numbers with this penalty as without
        drawn = torch.randn(len(matrix), generator=torch.Generator().manual_seed(0), device="cpu")
        u = [drawn.to(matrix)]
        for _ in range(20):
            u, *_ = _iteration([matrix], u)
        return u[0]

    def terms(self, module: nn.Module) -> tuple[Tensor, ...]:
        """Give half the sum of squared norms."""
        named = self.selected(module)
        if not named:
            return (nothing(module),)
        matrices = [as_matrix(module, name, weight) for name, weight in named]
        precise = [m.detach().to(wide(matrices)) for m in matrices]
        memories = [self.memory(name) for name, _ in named]
        u = [kept.to(m) for kept, m in zip(memories, precise, strict=True)]
        for _ in range(self.iterations):
            u, v, sigma = _iteration(precise, u)
        if module.training and torch.is_grad_enabled():
            torch._foreach_copy_(memories, u)
        value = torch.stack(sigma).square().sum() / 2

        def gradient(grad: Tensor) -> list[Tensor]:
            scales = torch._foreach_mul(sigma, grad)
            return [torch.outer(a * s, b).to(m.dtype) for a, b, s, m in zip(u, v, scales, matrices, strict=True)]

        return (closed_form(value, gradient, matrices),)


def _iteration(matrices: Sequence[Tensor], u: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    v = _unit([m.T @ a for m, a in zip(matrices, u, strict=True)])
    stretched = [m @ b for m, b in zip(matrices, v, strict=True)]
    sigma = torch._foreach_norm(stretched)
    # where a matrix is zero, the old direction stays, to go on with once it no longer is
    return _unit(list(torch._foreach_add(stretched, list(u), alpha=1e-12))), v, list(sigma)


def _unit(vectors: list[Tensor]) -> list[Tensor]:
    norms = torch._foreach_norm(vectors)
    torch._foreach_clamp_min_(norms, 1e-30)
    return list(torch._foreach_div(vectors, norms))
