"""Prune weights or whole units of small magnitude, gradually."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_advreg.constraints.base import Projected, Weights, relative
from lightning_advreg.constraints.stateful import StatefulProjection
from lightning_advreg.constraints.units import rows
from lightning_advreg.parameters import Pattern, as_patterns
from lightning_advreg.schedules import Schedule, check_schedule
from lightning_advreg.values import Number, to_float

Granularity: TypeAlias = Literal["weight", "unit"]
"""What is pruned: single weights, or all incoming weights of a unit together."""

Scope: TypeAlias = Literal["layer", "network"]
"""Where magnitudes are compared: within each layer, or over the whole network."""

_NEVER = -1.0


@dataclass(frozen=True, kw_only=True)
class CubicSparsity(Schedule):
    """A sparsity that grows fast and then ever more slowly, ``s_f + (s_i - s_f) (1 - (t - t_0) / n)^3``.

    Zhu & Gupta (2017), equation 1: many weights go early, when many are redundant, and few late.

    Args:
        end: The last sparsity ``s_f``, in [0, 1).
        epochs: How long it takes, ``n``, at least 0; may be fractional.
        start: The first sparsity ``s_i``, in [0, end].
        start_epoch: When it begins, ``t_0``, at least 0; may be fractional.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> sparsity = CubicSparsity(end=0.8, epochs=10, start_epoch=2)
        >>> [round(sparsity.value(epoch), 4) for epoch in (0, 2, 7, 12, 20)]
        [0.0, 0.0, 0.7, 0.8, 0.8]
    """

    end: Number
    epochs: Number
    start: Number = 0.0
    start_epoch: Number = 0.0

    def __post_init__(self) -> None:
        end = to_float(self.end, "end", minimum=0, below=1)
        object.__setattr__(self, "end", end)
        object.__setattr__(self, "start", to_float(self.start, "start", minimum=0, maximum=end))
        for name in ("epochs", "start_epoch"):
            object.__setattr__(self, name, to_float(getattr(self, name), name, minimum=0))

    def value(self, epoch: float) -> float:
        """Give the sparsity at a moment of training."""
        (start, end), epochs = self.bounds, to_float(self.epochs, "epochs")
        past = epoch - to_float(self.start_epoch, "start_epoch")
        # both ends before the formula, whose rounding would miss them by the last digit
        if past >= epochs:
            return end
        return start if past <= 0 else end + (start - end) * (1 - past / epochs) ** 3

    @property
    def bounds(self) -> tuple[float, float]:
        """The first and the last sparsity."""
        return to_float(self.start, "start"), to_float(self.end, "end")


class MagnitudePruning(StatefulProjection):
    """Keep the smallest weights at 0: a share of them, which may grow during training (Zhu & Gupta 2017).

    At the start of every ``interval`` the weights of smallest magnitude join those pruned, until their share is the
    ``sparsity`` of that moment; after every step all of them are set to 0. What is pruned stays pruned, as in the
    paper, whatever becomes of the sparsity. The first time it is the nearest point with so many zeros.

    With ``granularity="unit"`` it is structured: the incoming weights of a unit are pruned together, by their root mean
    square. Biases and normalisation stay, so that a pruned channel still gives a constant; one unit at least stays in
    each layer. Leave out the last layer, whose units are the classes, by a ``pattern``.

    Masks are buffers, which checkpoints hold. The set is not convex, and an average of weights still holds a little of
    what was pruned since: :meth:`mask_` prunes it.

    Args:
        sparsity: The share that is pruned, in [0, 1): a number, or a schedule such as :class:`CubicSparsity`.
        granularity: Prune single weights or whole units.
        scope: Compare magnitudes within each layer, or over the whole network, where a small layer may lose nearly all.
        interval: Epochs between two looks at the magnitudes, positive; with loaders of no length it is at least one.
        pattern: The names of the weights that may be pruned, such as ``"features.*"``, or several; None for all.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> layer = torch.nn.Linear(4, 1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -0.5, 0.25, 2.0]]))
        >>> projected = MagnitudePruning(0.5).project_(layer)
        >>> layer.weight.data, projected.at_bound
        (tensor([[3., 0., 0., 2.]]), tensor(0.5000))
    """

    def __init__(
        self,
        sparsity: Schedule | float | str,
        *,
        granularity: Granularity = "weight",
        scope: Scope = "layer",
        interval: Number = 0.1,
        pattern: Pattern = None,
    ) -> None:
        super().__init__()
        self.sparsity = _checked(sparsity)
        for name, value, kinds in (("granularity", granularity, Granularity), ("scope", scope, Scope)):
            if value not in get_args(kinds):
                raise ValueError(f"{name} must be {' or '.join(get_args(kinds))}, got {value!r}.")
        self.granularity, self.scope = granularity, scope
        self.interval = to_float(interval, "interval")
        if self.interval <= 0:
            raise ValueError(f"interval must be positive, got {interval!r}.")
        self.pattern = as_patterns(pattern)
        # the sparsity of the last look at the magnitudes: on the host, where comparing it waits for no device
        self._pruned_to = _NEVER

    def limit_(self, module: nn.Module, selected: Weights, epoch: float) -> Projected:
        """Set what is pruned to 0, after a look at the magnitudes where one is due."""
        views = [rows(module, name, weight) for name, weight in selected]
        masks, fresh = [], False
        for (name, _), (view, dims) in zip(selected, views, strict=True):
            sizes = [1 if dim in dims and self.granularity == "unit" else n for dim, n in enumerate(view.shape)]
            mask, new = self._held("kept", name, tuple(sizes), _all_kept, view)
            masks.append(mask)
            fresh |= new
        target = self._target(epoch)
        if fresh or target != self._pruned_to:
            self._prune_(views, masks, target)
            self._pruned_to = target
        pruned = [~mask for mask in masks]
        removed = [view * gone for (view, _), gone in zip(views, pruned, strict=True)]
        norms = torch.stack(torch._foreach_norm([view for view, _ in views])).norm()
        distance = relative(torch.stack(torch._foreach_norm(removed)).norm(), norms)
        count = sum(mask.numel() for mask in masks)
        hit = [self._any(part, dims).count_nonzero() for part, (_, dims) in zip(removed, views, strict=True)]
        for (view, _), gone in zip(views, pruned, strict=True):
            # not times the mask: 0 times an infinite weight is no 0
            view.masked_fill_(gone, 0)
        kept = torch.stack([mask.count_nonzero() for mask in masks]).sum()
        bound = torch.full_like(norms, target) if isinstance(self.sparsity, Schedule) else None
        return Projected(torch.stack(hit).sum() / count, distance, 1 - kept / count, bound)

    @torch.no_grad()
    def mask_(self, module: nn.Module) -> None:
        """Set to 0 in a copy of the network, such as its average, what is pruned; look at no magnitudes."""
        for name, weight in self.selected(module):
            view, dims = rows(module, name, weight)
            shape = tuple(1 if dim in dims and self.granularity == "unit" else n for dim, n in enumerate(view.shape))
            mask, _ = self._held("kept", name, shape, _all_kept, view)
            view.masked_fill_(~mask, 0)

    def _prune_(self, views: list[tuple[Tensor, list[int]]], masks: list[Tensor], target: float) -> None:
        # what is pruned already comes first, whatever the last step made of it
        scores = [
            torch.where(mask, self._magnitudes(view, dims), -1.0).flatten()
            for (view, dims), mask in zip(views, masks, strict=True)
        ]
        if self.scope == "network":
            kept = torch.cat([mask.flatten() for mask in masks])
            kept &= _largest(torch.cat(scores), target)
            parts = kept.split([len(s) for s in scores])
        else:
            parts = tuple(mask.flatten() & _largest(score, target) for mask, score in zip(masks, scores, strict=True))
        for mask, part, score in zip(masks, parts, scores, strict=True):
            if self.granularity == "unit":
                # argmax would make the mask of a tie depend on the device
                part = part | _largest(score, 1 - 1 / len(score)) & (part.count_nonzero() == 0)
            mask.copy_(part.view(mask.shape))

    def _magnitudes(self, view: Tensor, dims: list[int]) -> Tensor:
        if self.granularity == "weight":
            return view.abs().float()
        return view.float().square().mean(dim=dims, keepdim=True).sqrt()

    def _any(self, part: Tensor, dims: list[int]) -> Tensor:
        return part if self.granularity == "weight" else part.any(dim=tuple(dims), keepdim=True)

    def _target(self, epoch: float) -> float:
        if not isinstance(self.sparsity, Schedule):
            return to_float(self.sparsity, "sparsity")
        if math.isinf(epoch):
            return _in_range(self.sparsity.value(epoch), self.sparsity)
        # a little on, so that rounding of k / n epochs does not fall into the interval before
        begun = math.floor(epoch / self.interval + 1e-6) * self.interval
        return _in_range(self.sparsity.value(begun), self.sparsity)

    def get_extra_state(self) -> Tensor:
        """Give the sparsity of the last look, for checkpoints: a second look would find other units."""
        return torch.tensor(self._pruned_to, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the sparsity of the last look."""
        self._pruned_to = float(state)


def _largest(scores: Tensor, target: float) -> Tensor:
    """Tell which scores are not among the smallest ``target`` share; of equal ones the first go first."""
    count = math.floor(target * len(scores) + 0.5)
    kept = torch.ones_like(scores, dtype=torch.bool)
    return kept.index_fill_(0, scores.argsort(stable=True)[:count], False)


def _all_kept(shape: tuple[int, ...]) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def _checked(sparsity: Schedule | float | str) -> Schedule | float:
    if not isinstance(sparsity, Schedule):
        return to_float(sparsity, "sparsity", minimum=0, below=1)
    check_schedule(sparsity, "sparsity", minimum=0)
    if sparsity.bounds is not None:
        _in_range(sparsity.bounds[1], sparsity)
    return sparsity


def _in_range(value: float, schedule: Schedule) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"sparsity must be at least 0 and less than 1, got {value:g} from {schedule!r}.")
    return value
