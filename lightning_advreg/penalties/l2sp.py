"""A soft limit on how far fine-tuning goes."""

import torch
from torch import Tensor, nn

from lightning_advreg.parameters import Pattern
from lightning_advreg.penalties.base import Coefficient, as_coefficient
from lightning_advreg.penalties.closed_form import nothing
from lightning_advreg.penalties.stateful import RememberingPenalty
from lightning_advreg.penalties.weights import half_squares


class L2SP(RememberingPenalty):
    """Half the squared distance from the weights at the start, ``weight / 2 * sum (w - w0)^2`` (Li et al. 2018, eq. 2).

    For fine-tuning: where L2 pulls to zero, and so away from what was learned before, this one pulls back to it. The
    paper has L2 on layers that are new: ``[L2SP(0.1, pattern="features.*"), L2(0.01, pattern="head.*")]``.

    The start is that of the first training with this penalty, after hard limits were enforced. It travels in
    checkpoints, so that a run that continues is held to the same weights.

    Args:
        weight: The coefficient, at least 0; a number or a schedule.
        include_biases: Count biases and normalisation scales too.
        pattern: The names of the parameters that count, such as ``"features.*"``, or several; None for all weights.

    Raises:
        ValueError: If ``weight`` is negative.

    Example:
        >>> layer, penalty = nn.Linear(2, 1), L2SP(1.0)
        >>> penalty(layer).item()
        0.0
        >>> with torch.no_grad():
        ...     _ = layer.weight.add_(1)
        >>> round(penalty(layer).item(), 4)
        1.0
    """

    def __init__(self, weight: Coefficient, *, include_biases: bool = False, pattern: Pattern = None) -> None:
        super().__init__(include_biases=include_biases, pattern=pattern)
        self.weight = as_coefficient(weight, "weight")

    def remembered(self, module: nn.Module, name: str, weight: Tensor) -> Tensor:
        """Give a copy of the weight."""
        return weight.clone()

    def terms(self, module: nn.Module) -> tuple[Tensor, ...]:
        """Give half the squared distance."""
        named = self.selected(module)
        if not named:
            return (nothing(module),)
        parameters = [p for _, p in named]
        starts = [self.memory(name).to(p) for name, p in named]
        return (half_squares(list(torch._foreach_sub([p.detach() for p in parameters], starts)), parameters),)
