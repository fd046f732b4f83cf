"""A soft limit that keeps the units of a layer apart."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_advreg.parameters import Pattern, as_matrix, as_patterns, weights
from lightning_advreg.penalties.base import Coefficient, WeightPenalty, as_coefficient
from lightning_advreg.penalties.closed_form import closed_form, nothing, wide


@dataclass(frozen=True)
class Orthogonality(WeightPenalty):
    """The distance of weights from orthonormal rows, ``weight * sum_W ||W W' - I||_F^2``.

    W is a weight as a matrix ``(out, rest)``, for a convolution the kernel laid out flat; one with more rows than
    columns, which cannot have orthonormal rows, is transposed. Without the diagonal, rows need be orthogonal only, of
    any length: ``||W W' * (1 - I)||_F^2``. Both are in Brock et al. (2019); Brock et al. (2017) add up absolute
    entries of ``W W' - I`` instead.

    Args:
        weight: The coefficient, at least 0; a number or a schedule.
        diagonal: Pull the length of rows to 1 as well.
        pattern: The names of the weights that count, such as ``"features.*"``, or several; None for all.

    Raises:
        ValueError: If ``weight`` is negative.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
        >>> [round(Orthogonality(1.0, diagonal=diagonal)(layer).item(), 4) for diagonal in (True, False)]
        [3.0, 2.0]
    """

    weight: Coefficient
    _: KW_ONLY
    diagonal: bool = True
    pattern: Pattern = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", as_coefficient(self.weight, "weight"))
        object.__setattr__(self, "pattern", as_patterns(self.pattern))

    def bound(self, network: nn.Module) -> Self:
        """Give the penalty as it is, after a look whether the network has what ``pattern`` names."""
        if self.pattern is not None:
            list(weights(network, pattern=self.pattern))
        return self

    def terms(self, module: nn.Module) -> tuple[Tensor, ...]:
        """Give the sum of squared distances."""
        matrices = [as_matrix(module, name, weight) for name, weight in weights(module, pattern=self.pattern)]
        return (_distance(matrices, self.diagonal) if matrices else nothing(module),)


def _distance(matrices: Sequence[Tensor], diagonal: bool) -> Tensor:
    dtype = wide(matrices)
    lying = [m.shape[0] <= m.shape[1] for m in matrices]
    rows = [m if lies else m.T for m, lies in zip((m.detach().to(dtype) for m in matrices), lying, strict=True)]
    excess = [m @ m.T for m in rows]
    for gram in excess:
        gram.diagonal().sub_(1) if diagonal else gram.diagonal().zero_()
    value = torch.stack(torch._foreach_norm(excess)).square().sum()

    def gradient(grad: Tensor) -> list[Tensor]:
        # 4 E W: one product, where autograd would take one for each side of W W'
        steps = [gram @ m for gram, m in zip(excess, rows, strict=True)]
        torch._foreach_mul_(steps, 4 * grad)
        upright = [step if lies else step.T for step, lies in zip(steps, lying, strict=True)]
        return [step.to(m.dtype) for step, m in zip(upright, matrices, strict=True)]

    return closed_form(value, gradient, matrices)
