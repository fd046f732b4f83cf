"""Hard limits on weights, enforced by projection after every optimizer step."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from lightning_advreg.constraints.base import Constraint
from lightning_advreg.parameters import weights
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True)
class MaxNorm(Constraint):
    """Bound the Euclidean norm of each unit's incoming weights, usually by 3 or 4 (Srivastava et al. 2014, 5.1).

    A unit is a row of a weight matrix or an output channel of a convolution. Rows above the bound are scaled back onto
    it, the nearest point of the ball.

    Args:
        bound: The largest norm allowed, positive.
        include_biases: Bound the absolute values of biases and normalisation scales too.

    Raises:
        ValueError: If ``bound`` is not positive.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> MaxNorm(1.0).project_(layer)
        >>> layer.weight.data
        tensor([[0.6000, 0.8000]])
    """

    bound: Number
    _: KW_ONLY
    include_biases: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", _positive(self.bound))

    @torch.no_grad()
    def project_(self, module: nn.Module) -> None:
        """Scale rows of ``module``'s weights back to the bound."""
        bound = to_float(self.bound, "bound")
        for name, weight in weights(module, include_biases=self.include_biases):
            if weight.dim() < 2:
                weight.clamp_(-bound, bound)
                continue
            rows, dims = _units(module, name, weight)
            norm = torch.linalg.vector_norm(rows, dim=dims, keepdim=True)
            rows.mul_((bound / norm).clamp(max=1))


@dataclass(frozen=True)
class WeightClip(Constraint):
    """Keep every weight in ``[-bound, bound]`` (the critic of Arjovsky et al. 2017, algorithm 1).

    Biases and normalisation scales are left alone unless ``include_biases``: the paper's code clips those as well.

    Args:
        bound: The largest absolute value allowed, positive.
        include_biases: Clip biases and normalisation scales too.

    Raises:
        ValueError: If ``bound`` is not positive.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -0.25]]))
        >>> WeightClip(0.5).project_(layer)
        >>> layer.weight.data
        tensor([[ 0.5000, -0.2500]])
    """

    bound: Number
    _: KW_ONLY
    include_biases: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", _positive(self.bound))

    @torch.no_grad()
    def project_(self, module: nn.Module) -> None:
        """Clamp the weights of ``module``."""
        bound = to_float(self.bound, "bound")
        for _, weight in weights(module, include_biases=self.include_biases):
            weight.clamp_(-bound, bound)


def _positive(bound: Number) -> float:
    value = to_float(bound, "bound")
    if value <= 0:
        raise ValueError(f"bound must be positive, got {bound!r}.")
    return value


def _units(module: nn.Module, name: str, weight: Tensor) -> tuple[Tensor, list[int]]:
    """Give a view of a weight, and the dimensions of it that make up one unit's incoming weights."""
    owner = module.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        # (in, out / groups, ...), where a group of inputs has outputs of its own; all others store (out, in, ...)
        rows = weight.unflatten(0, (owner.groups, -1))
        return rows, [1, *range(3, rows.dim())]
    return weight, list(range(1, weight.dim()))
