"""What every weight perturbation is: climb, differentiate there, come back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_advreg.attacks import in_mode
from lightning_advreg.values import Number, to_float


class Climb:
    """Weights that were moved, and the way back.

    Args:
        network: The network whose weights moved.
        before: The weights as they were, by name.
        freeze_statistics: Whether BatchNorm keeps its running statistics in passes at the moved weights.
    """

    def __init__(self, network: nn.Module, before: Mapping[str, Tensor], *, freeze_statistics: bool) -> None:
        self._network, self._before, self._freeze = network, dict(before), freeze_statistics

    @contextmanager
    def at_the_top(self) -> Iterator[None]:
        """Run passes at the moved weights."""
        if not self._freeze:
            yield
            return
        with in_mode(self._network, "batch_stats"):
            yield

    @torch.no_grad()
    def back_(self) -> None:
        """Put the weights back, bit for bit; once."""
        if self._before:
            parameters = dict(self._network.named_parameters())
            for name, value in self._before.items():
                parameters[name].copy_(value)
            self._before = {}


@dataclass(frozen=True, kw_only=True)
class WeightPerturbation(ABC):
    """Train at weights that were moved to where the loss is higher.

    A training step climbs from the weights w to w + v, differentiates the loss there, goes back to w and takes the
    optimizer's step with that gradient.

    Args:
        start_epoch: The first epoch in which it acts; may be fractional.
    """

    start_epoch: Number = 0

    first_pass_updates_statistics: ClassVar[bool] = True
    """Whether BatchNorm statistics follow the pass at w; otherwise they follow that at w + v."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "start_epoch", to_float(self.start_epoch, "start_epoch", minimum=0))

    @abstractmethod
    def offsets(self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the moves v of the parameters that move, by name.

        Args:
            parameters: All parameters that need gradients, by name.
            gradients: The gradients of the loss, by the same names; zeros where the loss does not depend on one.
        """

    def climb_(self, network: nn.Module, loss: Callable[[], Tensor]) -> Climb:
        """Move the weights of a network, in place.

        Args:
            network: The network, in training mode.
            loss: Gives the loss at the weights of the moment; it is called once.

        Returns:
            The way back.
        """
        parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        with in_mode(network, "train" if self.first_pass_updates_statistics else "batch_stats"):
            grads = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
        with torch.no_grad():
            gradients = {
                name: torch.zeros_like(p) if grad is None else grad
                for (name, p), grad in zip(parameters.items(), grads, strict=True)
            }
            moves = self.offsets(parameters, gradients)
            before = {name: parameters[name].detach().clone() for name in moves}
            for name, move in moves.items():
                parameters[name].add_(move)
        return Climb(network, before, freeze_statistics=self.first_pass_updates_statistics)
