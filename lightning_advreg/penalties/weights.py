"""Soft limits on weights: differentiable terms added to the loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from lightning_advreg.parameters import weights
from lightning_advreg.values import Number, to_float


class WeightPenalty(ABC):
    """Soft regularisation: a differentiable function of a network's weights, added to the loss."""

    @abstractmethod
    def __call__(self, module: nn.Module) -> Tensor:
        """Give the penalty of ``module``, a scalar on its device."""


@dataclass(frozen=True)
class L1(WeightPenalty):
    """The sum of absolute weights, ``weight * sum |w|`` (lasso, Tibshirani 1996): drives weights to zero.

    Args:
        weight: The coefficient, at least 0.
        include_biases: Count biases and normalisation scales too.

    Raises:
        ValueError: If ``weight`` is negative.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.constant_(layer.weight, -3.0)
        >>> L1(0.1)(layer).item()
        0.6000000238418579
    """

    weight: Number
    _: KW_ONLY
    include_biases: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", to_float(self.weight, "weight", minimum=0))

    def __call__(self, module: nn.Module) -> Tensor:
        """Give the penalty of ``module``."""
        return to_float(self.weight, "weight") * _total(module, self.include_biases, lambda w: w.abs().sum())


@dataclass(frozen=True)
class L2(WeightPenalty):
    """Half the sum of squared weights, ``weight / 2 * sum w^2`` (ridge, Hoerl & Kennard 1970): shrinks weights.

    Under SGD its gradient ``weight * w`` equals an optimizer's ``weight_decay=weight``; give one of the two.

    Args:
        weight: The coefficient, at least 0.
        include_biases: Count biases and normalisation scales too.

    Raises:
        ValueError: If ``weight`` is negative.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.constant_(layer.weight, 2.0)
        >>> L2(0.5)(layer).item()
        2.0
    """

    weight: Number
    _: KW_ONLY
    include_biases: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", to_float(self.weight, "weight", minimum=0))

    def __call__(self, module: nn.Module) -> Tensor:
        """Give the penalty of ``module``."""
        return to_float(self.weight, "weight") * _total(module, self.include_biases, lambda w: 0.5 * w.square().sum())


@dataclass(frozen=True)
class ElasticNet(WeightPenalty):
    """L1 and L2 together, ``l1 * sum |w| + l2 / 2 * sum w^2`` (Zou & Hastie 2005).

    Args:
        l1: The coefficient of the L1 term, at least 0.
        l2: The coefficient of the L2 term, at least 0.
        include_biases: Count biases and normalisation scales too.

    Raises:
        ValueError: If a coefficient is negative.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> ElasticNet(0.1, 0.5)(layer) == L1(0.1)(layer) + L2(0.5)(layer)
        tensor(True)
    """

    l1: Number
    l2: Number
    _: KW_ONLY
    include_biases: bool = False

    def __post_init__(self) -> None:
        for name in ("l1", "l2"):
            object.__setattr__(self, name, to_float(getattr(self, name), name, minimum=0))

    def __call__(self, module: nn.Module) -> Tensor:
        """Give the penalty of ``module``."""
        l1 = L1(self.l1, include_biases=self.include_biases)
        l2 = L2(self.l2, include_biases=self.include_biases)
        return l1(module) + l2(module)


def _total(module: nn.Module, include_biases: bool, term: Callable[[Tensor], Tensor]) -> Tensor:
    terms = [term(parameter) for _, parameter in weights(module, include_biases=include_biases)]
    if terms:
        return torch.stack(terms).sum()
    return next(module.parameters(), torch.empty(0)).new_zeros(())
