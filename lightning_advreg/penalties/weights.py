"""Soft limits on the size of weights."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_advreg.parameters import Pattern, as_patterns, weights
from lightning_advreg.penalties.base import Coefficient, WeightPenalty, as_coefficient
from lightning_advreg.penalties.closed_form import closed_form, nothing, wide


@dataclass(frozen=True)
class SelectedWeights(WeightPenalty):
    """A penalty on the weights of a network that a user selects.

    Args:
        include_biases: Count biases and normalisation scales too.
        pattern: The names of the parameters that count, such as ``"features.*"``, or several; None for all weights.
    """

    _: KW_ONLY
    include_biases: bool = False
    pattern: Pattern = None

    def __post_init__(self) -> None:
        for name in self.coefficients:
            object.__setattr__(self, name, as_coefficient(getattr(self, name), name))
        object.__setattr__(self, "pattern", as_patterns(self.pattern))

    def bound(self, network: nn.Module) -> Self:
        """Give the penalty as it is, after a look whether the network has what ``pattern`` names."""
        if self.pattern is not None:
            self.selected(network)
        return self

    def selected(self, module: nn.Module) -> list[nn.Parameter]:
        """Give the parameters that count."""
        return [p for _, p in weights(module, include_biases=self.include_biases, pattern=self.pattern)]


@dataclass(frozen=True)
class L1(SelectedWeights):
    """The sum of absolute weights, ``weight * sum |w|`` (lasso, Tibshirani 1996): drives weights to zero.

    Args:
        weight: The coefficient, at least 0; a number or a schedule.
        include_biases: Count biases and normalisation scales too.
        pattern: The names of the parameters that count, such as ``"features.*"``, or several; None for all weights.

    Raises:
        ValueError: If ``weight`` is negative.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.constant_(layer.weight, -3.0)
        >>> L1(0.1)(layer).item()
        0.6000000238418579
    """

    weight: Coefficient

    def terms(self, module: nn.Module) -> tuple[Tensor, ...]:
        """Give the sum of absolute weights."""
        return (_absolutes(self.selected(module), module),)


@dataclass(frozen=True)
class L2(SelectedWeights):
    """Half the sum of squared weights, ``weight / 2 * sum w^2`` (ridge, Hoerl & Kennard 1970): shrinks weights.

    Under SGD its gradient ``weight * w`` equals an optimizer's ``weight_decay=weight``; give one of the two.

    Args:
        weight: The coefficient, at least 0; a number or a schedule.
        include_biases: Count biases and normalisation scales too.
        pattern: The names of the parameters that count, such as ``"features.*"``, or several; None for all weights.

    Raises:
        ValueError: If ``weight`` is negative.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.constant_(layer.weight, 2.0)
        >>> round(L2(0.5)(layer).item(), 4)
        2.0
    """

    weight: Coefficient

    def terms(self, module: nn.Module) -> tuple[Tensor, ...]:
        """Give half the sum of squared weights."""
        return (_half_squares(self.selected(module), module),)

    def shrunk(self, module: nn.Module) -> list[nn.Parameter]:
        """Give the parameters whose squares are added to the loss."""
        return [] if self.weight == 0 else self.selected(module)


@dataclass(frozen=True)
class ElasticNet(SelectedWeights):
    """L1 and L2 together, ``l1 * sum |w| + l2 / 2 * sum w^2`` (Zou & Hastie 2005).

    Args:
        l1: The coefficient of the L1 term, at least 0; a number or a schedule.
        l2: The coefficient of the L2 term, at least 0; a number or a schedule.
        include_biases: Count biases and normalisation scales too.
        pattern: The names of the parameters that count, such as ``"features.*"``, or several; None for all weights.

    Raises:
        ValueError: If a coefficient is negative.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> ElasticNet(0.1, 0.5)(layer) == L1(0.1)(layer) + L2(0.5)(layer)
        tensor(True)
    """

    coefficients: ClassVar[tuple[str, ...]] = ("l1", "l2")

    l1: Coefficient
    l2: Coefficient

    def terms(self, module: nn.Module) -> tuple[Tensor, ...]:
        """Give the sum of absolute weights, and half the sum of squared weights."""
        parameters = self.selected(module)
        return _absolutes(parameters, module), _half_squares(parameters, module)

    def shrunk(self, module: nn.Module) -> list[nn.Parameter]:
        """Give the parameters whose squares are added to the loss."""
        return [] if self.l2 == 0 else self.selected(module)


def _absolutes(parameters: Sequence[nn.Parameter], module: nn.Module) -> Tensor:
    if not parameters:
        return nothing(module)
    tensors = [p.detach() for p in parameters]
    value = torch.stack(torch._foreach_norm(tensors, 1, dtype=wide(tensors))).sum()

    def gradient(grad: Tensor) -> Sequence[Tensor]:
        signs = torch._foreach_sign(tensors)
        torch._foreach_mul_(signs, grad)
        return signs

    return closed_form(value, gradient, parameters)


def _half_squares(parameters: Sequence[nn.Parameter], module: nn.Module) -> Tensor:
    return half_squares([p.detach() for p in parameters], parameters) if parameters else nothing(module)


def half_squares(tensors: list[Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Give half the sum of squares of tensors that each equal a parameter up to a constant.

    Args:
        tensors: The tensors, detached; at least one.
        parameters: What the gradients, which are ``tensors``, belong to.

    Example:
        >>> w = nn.Parameter(torch.tensor([3.0]))
        >>> half_squares([w.detach() - 1], [w])
        tensor(2., grad_fn=<_ClosedFormBackward>)
    """
    value = torch.stack(torch._foreach_norm(tensors, dtype=wide(tensors))).square().sum() / 2
    return closed_form(value, lambda grad: torch._foreach_mul(tensors, grad), parameters)
