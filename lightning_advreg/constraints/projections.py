"""Convex limits on single weights and on units, enforced by projection after every optimizer step."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from lightning_advreg.constraints.base import Projected, Projection, Weights, relative, rounding, share
from lightning_advreg.constraints.bounds import AdaptiveBound, Bound, as_bound, bound_at, follow_
from lightning_advreg.constraints.units import rows
from lightning_advreg.parameters import Pattern, as_patterns


@dataclass(frozen=True)
class SelectedProjection(Projection):
    """A projection of the weights of a network that a user selects.

    Args:
        include_biases: Limit biases and normalisation scales too.
        pattern: The names of the parameters that are limited, such as ``"features.*"``, or several; None for all
            weights.
    """

    _: KW_ONLY
    include_biases: bool = False
    pattern: Pattern = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", as_patterns(self.pattern))


@dataclass(frozen=True)
class BoundedProjection(SelectedProjection):
    """A projection with a bound.

    Args:
        bound: The bound: a positive number, a schedule of such numbers, or an ``AdaptiveBound``.
        include_biases: Limit biases and normalisation scales too.
        pattern: The names of the parameters that are limited.
    """

    bound: Bound

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "bound", as_bound(self.bound))

    @property
    def state(self) -> nn.Module | None:
        """The bound, where it adapts."""
        return self.bound if isinstance(self.bound, AdaptiveBound) else None


@dataclass(frozen=True)
class MaxNorm(BoundedProjection):
    """Bound the Euclidean norm of each unit's incoming weights, usually by 3 or 4 (Srivastava et al. 2014, 5.1).

    A unit is a row of a weight matrix or an output channel of a convolution. Rows above the bound are scaled back onto
    it, the nearest point of the ball. The set is convex, so that an average of weights that meet one bound meets it.

    Args:
        bound: The largest norm allowed, positive: a number, a schedule, or an ``AdaptiveBound`` with the share of units
            that is to sit on it.
        include_biases: Bound the absolute values of biases and normalisation scales too.
        pattern: The names of the parameters that are limited, such as ``"features.*"``, or several; None for all
            weights.

    Raises:
        ValueError: If ``bound`` is not positive.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> projected = MaxNorm(1.0).project_(layer)
        >>> layer.weight.data, projected.moved, projected.distance
        (tensor([[0.6000, 0.8000]]), tensor(1.), tensor(0.8000))
    """

    def limit_(self, module: nn.Module, selected: Weights, epoch: float) -> Projected:
        """Scale units back to the bound."""
        views = [rows(module, name, weight) for name, weight in selected]
        parts = [_norms(view, dims) for view, dims in views]
        norms = torch.cat([part.flatten() for part in parts])
        bound = bound_at(self.bound, epoch, norms)
        # two digits inside, so that rounding leaves no unit outside, and a second projection moves none
        inside = 1 - 2 * torch.finfo(norms.dtype).eps
        over = norms > bound
        factors = torch.where(over, inside * bound / norms, 1.0)
        torch._foreach_mul_(
            [view for view, _ in views],
            [f.view(p.shape) for f, p in zip(factors.split([p.numel() for p in parts]), parts, strict=True)],
        )
        at_bound = share(norms >= bound * (1 - rounding(norms.dtype)))
        moved, distance = share(over), relative(((1 - factors) * norms).norm(), norms.norm())
        return Projected(moved, distance, at_bound, follow_(self.bound, at_bound, bound))


@dataclass(frozen=True)
class WeightClip(BoundedProjection):
    """Keep every weight in ``[-bound, bound]`` (the critic of Arjovsky et al. 2017, algorithm 1).

    Biases and normalisation scales are left alone unless ``include_biases``: the paper's code clips those as well. The
    set is convex, so that an average of weights that meet one bound meets it.

    Args:
        bound: The largest absolute value allowed, positive: a number, a schedule, or an ``AdaptiveBound`` with the
            share of weights that is to sit on it.
        include_biases: Clip biases and normalisation scales too.
        pattern: The names of the parameters that are limited, such as ``"features.*"``, or several; None for all
            weights.

    Raises:
        ValueError: If ``bound`` is not positive.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -0.25]]))
        >>> projected = WeightClip(0.5).project_(layer)
        >>> layer.weight.data, projected.at_bound
        (tensor([[ 0.5000, -0.2500]]), tensor(0.5000))
    """

    def limit_(self, module: nn.Module, selected: Weights, epoch: float) -> Projected:
        """Clamp the weights."""
        values: list[Tensor] = [weight for _, weight in selected]
        bound = bound_at(self.bound, epoch, values[0])
        excess = torch._foreach_abs(values)
        torch._foreach_add_(excess, bound, alpha=-1)
        moved, distance, at_bound = _bite(values, list(excess))
        for value in values:
            value.clamp_(-bound, bound)
        return Projected(moved, distance, at_bound, follow_(self.bound, at_bound, bound))


@dataclass(frozen=True)
class NonNegative(SelectedProjection):
    """Keep every weight at 0 or above, by clamping: parts that add up (Lee & Seung 1999; Chorowski & Zurada 2015).

    What sits on the limit are the zeros. With a convex activation that does not fall, and all weights but those of the
    first layer limited, a network is convex in its input (Amos et al. 2017). The set is convex, so that averages of
    weights meet it.

    Args:
        include_biases: Limit biases and normalisation scales too.
        pattern: The names of the parameters that are limited, such as ``"features.*"``, or several; None for all
            weights.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -0.25]]))
        >>> projected = NonNegative().project_(layer)
        >>> layer.weight.data, projected.moved
        (tensor([[3., 0.]]), tensor(0.5000))
    """

    def limit_(self, module: nn.Module, selected: Weights, epoch: float) -> Projected:
        """Set negative weights to 0."""
        values: list[Tensor] = [weight for _, weight in selected]
        bite = _bite(values, list(torch._foreach_neg(values)))
        torch._foreach_clamp_min_(values, 0)
        return Projected(*bite)


def _norms(view: Tensor, dims: Sequence[int]) -> Tensor:
    dtype = torch.promote_types(view.dtype, torch.float32)
    return torch.linalg.vector_norm(view, dim=list(dims), keepdim=True, dtype=dtype)


def _bite(values: list[Tensor], excess: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Give the share of weights beyond a limit, their relative distance from it, and the share at or beyond it.

    The excess, negative inside, is overwritten. One long tensor of all would be slow to get on the CPU.
    """
    dtype = torch.promote_types(values[0].dtype, torch.float32)
    count = sum(value.numel() for value in values)
    # -1 inside, 0 on the limit, 1 beyond it
    signs = list(torch._foreach_sign(excess))
    off = _total(signs, 1, dtype)
    torch._foreach_clamp_min_(signs, 0)
    beyond = _total(signs, 1, dtype)
    torch._foreach_clamp_min_(excess, 0)
    distance = relative(_total(excess, 2, dtype), _total(values, 2, dtype))
    return beyond / count, distance, 1 - (off - beyond) / count


def _total(tensors: list[Tensor], order: int, dtype: torch.dtype) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors, order, dtype)), order)
