"""What every constraint is: a limit that holds exactly, rather than a price for exceeding it."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_advreg.parameters import Pattern, weights

Weights = Sequence[tuple[str, nn.Parameter]]
"""Parameters with their names in the network."""


class Projected(NamedTuple):
    """How often and how far a projection has moved the weights. All are scalars on their device.

    What is counted is what the constraint limits: single weights, units, or matrices.

    Attributes:
        moved: The share that was moved, in [0, 1].
        distance: How far all weights together were moved, ``||w' - w|| / ||w||``; 0 where all weights are 0.
        at_bound: The share that sits on the limit afterwards, in [0, 1]; None where every point of the limit is alike.
        bound: The bound of the moment where it changes during training, or None.
    """

    moved: Tensor
    distance: Tensor
    at_bound: Tensor | None = None
    bound: Tensor | None = None


class Constraint:
    """Hard regularisation: a projection after every optimizer step, a check before the first, or a measurement.

    Subclasses override what they need. One that carries tensors from step to step is an ``nn.Module`` as well, whose
    state checkpoints hold; such an object belongs to one network.
    """

    def project_(self, module: nn.Module, *, epoch: float = math.inf) -> Projected | None:
        """Move the parameters of ``module``, in place, to ones that meet the limit: the nearest, or it says otherwise.

        Args:
            module: The network.
            epoch: The number of epochs before this moment, with its fraction, for a bound that follows a schedule. Left
                out, it is the end of the schedule.

        Returns:
            How often and how far the limit has bitten, or None where there is nothing to limit.
        """
        return None

    def check(self, module: nn.Module, name: str = "network") -> None:
        """Raise a ValueError, naming the network by ``name``, if no training could make ``module`` meet the limit."""

    def measure(self, module: nn.Module) -> Mapping[str, float | Tensor]:
        """Give what is worth a look at the end of each epoch, numbers by name; nothing by default."""
        return {}

    @property
    def state(self) -> nn.Module | None:
        """What holds tensors from step to step, for checkpoints; None where there are none."""
        return self if isinstance(self, nn.Module) else None


class Projection(Constraint):
    """A constraint on the weights of a network that a user selects; a subclass says how to :meth:`limit_` them.

    Attributes:
        include_biases: Whether biases and normalisation scales are limited too.
        pattern: The names of the parameters that are limited, or None for all.
    """

    include_biases: bool = False
    pattern: Pattern = None

    def selected(self, module: nn.Module) -> Weights:
        """Give the parameters that are limited, with their names."""
        return list(weights(module, include_biases=self.include_biases, pattern=self.pattern))

    def check(self, module: nn.Module, name: str = "network") -> None:
        """Raise a ValueError if ``module`` has no parameter that ``pattern`` names."""
        self.selected(module)

    def project_(self, module: nn.Module, *, epoch: float = math.inf) -> Projected | None:
        """Limit the weights of ``module`` in place, without gradients and outside of autocast.

        Args:
            module: The network.
            epoch: The number of epochs before this moment, for a bound that follows a schedule; by default its end.

        Returns:
            How often and how far the limit has bitten, or None if the network has no such weights.
        """
        selected = self.selected(module)
        if not selected:
            return None
        # the manual optimization of GANs projects inside the autocast of the training step
        with torch.no_grad(), torch.autocast(selected[0][1].device.type, enabled=False):
            return self.limit_(module, selected, epoch)

    @abstractmethod
    def limit_(self, module: nn.Module, selected: Weights, epoch: float) -> Projected:
        """Move the selected parameters of ``module`` in place; gradients and autocast are off."""


def share(condition: Tensor) -> Tensor:
    """Give the share of true entries, a scalar.

    Example:
        >>> share(torch.tensor([True, False, True, True]))
        tensor(0.7500)
    """
    return condition.count_nonzero() / condition.numel()


def relative(distance: Tensor, norm: Tensor) -> Tensor:
    """Give ``distance / norm``, and 0 where both are 0.

    Example:
        >>> relative(torch.tensor(1.0), torch.tensor(4.0)), relative(torch.tensor(0.0), torch.tensor(0.0))
        (tensor(0.2500), tensor(0.))
    """
    return distance / norm.clamp(min=torch.finfo(norm.dtype).tiny)


def rounding(dtype: torch.dtype) -> float:
    """Give the relative difference up to which a norm counts as equal to its bound.

    Example:
        >>> f"{rounding(torch.float32):.1e}"
        '1.9e-06'
    """
    return 16 * torch.finfo(dtype).eps
