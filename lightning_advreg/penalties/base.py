"""What every penalty is: terms of the loss, each with a coefficient that may follow a schedule."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_advreg.penalties.training_pass import TrainingPass
from lightning_advreg.schedules import Schedule, check_schedule
from lightning_advreg.values import Number, to_float

Coefficient: TypeAlias = Number | Schedule
"""What a penalty is multiplied by: a number, or a schedule over the epochs of training."""


class PenaltyValue(NamedTuple):
    """The value of a penalty.

    Attributes:
        value: What is added to the loss, a scalar.
        raw: The same with coefficients of 1, or None where there is no telling, as with a function of the user's own.
    """

    value: Tensor
    raw: Tensor | None = None


class Weighted:
    """Terms with coefficients, which are fields: numbers or schedules.

    Attributes:
        coefficients: The names of the fields that hold coefficients, one for each term.
    """

    coefficients: ClassVar[tuple[str, ...]] = ("weight",)

    def strengths(self, epoch: float) -> tuple[float, ...]:
        """Give the coefficients at a moment of training.

        Args:
            epoch: The number of epochs before it, with its fraction.
        """
        return tuple(coefficient_at(getattr(self, name), name, epoch) for name in self.coefficients)

    def weigh(self, terms: Sequence[Tensor], epoch: float = math.inf) -> PenaltyValue:
        """Multiply raw terms, one for each coefficient, by their coefficients at an epoch, and add them up."""
        pairs = list(zip(self.strengths(epoch), terms, strict=True))
        value = sum((strength * term for strength, term in pairs[1:]), start=pairs[0][0] * pairs[0][1])
        return PenaltyValue(value, sum((term.detach() for _, term in pairs[1:]), start=pairs[0][1].detach()))


class Penalty(Weighted, ABC):
    """Soft regularisation: a differentiable term ``sum_i c_i r_i`` of the loss, with coefficients c and raw terms r.

    Coefficients are the fields named in ``coefficients``, numbers or schedules. In training they have the values of
    the epoch; called outside of it a penalty takes their values at the end of the schedule (``value(math.inf)``),
    unless it is given an ``epoch``.

    Attributes:
        on_images: Whether it takes the images of a step, or the logits computed from them.
        double_backward: Whether a pass is differentiated twice, which compiled networks do not allow.
        eager: Whether the network is not to be compiled, for that reason or because layers are watched.
    """

    on_images: ClassVar[bool] = False
    double_backward: ClassVar[bool] = False
    eager: ClassVar[bool] = False

    def bound(self, network: nn.Module) -> Self:
        """Give the penalty of one network, with state of its own where it has any.

        Args:
            network: The network that is to be trained.

        Raises:
            ValueError: If the penalty names parameters or layers that the network does not have.
        """
        return self

    def begin_(self, network: nn.Module) -> None:
        """Take what the penalty remembers of the first weights; once, and not in a run that continues."""

    @abstractmethod
    def terms_of(self, training_pass: TrainingPass) -> tuple[Tensor, ...]:
        """Give the raw terms of a training step, without another forward pass where the step had it."""


class WeightPenalty(Penalty):
    """A penalty on the weights of a network; a subclass gives the :meth:`terms`."""

    def __call__(self, module: nn.Module, *, epoch: float = math.inf) -> Tensor:
        """Give the penalty of ``module``, a scalar on its device.

        Args:
            module: The network.
            epoch: The epoch whose coefficients count.
        """
        return self.weigh(self.terms(module), epoch).value

    @abstractmethod
    def terms(self, module: nn.Module) -> tuple[Tensor, ...]:
        """Give the raw terms of ``module``, scalars on its device, one for each coefficient."""

    def shrunk(self, module: nn.Module) -> Sequence[nn.Parameter]:
        """Give the parameters whose squares are added to the loss, as by the weight decay of an optimizer."""
        return ()

    def terms_of(self, training_pass: TrainingPass) -> tuple[Tensor, ...]:
        """Give the raw terms of the network, outside of autocast."""
        parameter = next(training_pass.network.parameters(), torch.empty(0))
        # products in half precision would lose the small differences that these penalties are about
        with torch.autocast(parameter.device.type, enabled=False):
            return self.terms(training_pass.network)


def as_coefficient(value: Coefficient, name: str) -> float | Schedule:
    """Check a coefficient: a number of at least 0, or a schedule of such numbers.

    Args:
        value: The argument.
        name: Its name, for the error message.

    Raises:
        ValueError: If it cannot be read, or is negative, or is a schedule known to become so.

    Example:
        >>> as_coefficient("1e-4", "weight")
        0.0001
    """
    if isinstance(value, Schedule):
        check_schedule(value, name, minimum=0)
        return value
    return to_float(value, name, minimum=0)


def coefficient_at(value: Coefficient, name: str, epoch: float) -> float:
    """Give the value of a coefficient at an epoch.

    Example:
        >>> from lightning_advreg.schedules import Ramp
        >>> ramp = Ramp(epochs=4, end=2)
        >>> coefficient_at(ramp, "weight", 1), coefficient_at(ramp, "weight", math.inf), coefficient_at(3, "weight", 1)
        (0.5, 2.0, 3.0)
    """
    return value.value(epoch) if isinstance(value, Schedule) else to_float(value, name)
