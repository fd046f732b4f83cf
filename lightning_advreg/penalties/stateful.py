"""Penalties that remember something of each weight."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_advreg.parameters import Pattern, as_patterns, weights
from lightning_advreg.penalties.base import WeightPenalty
from lightning_advreg.recorded import Recorded


class RememberingPenalty(Recorded, WeightPenalty, nn.Module):
    """A weight penalty with one tensor for each weight, in buffers, which travel in checkpoints.

    The modules of this library give each network a copy of the penalty, with a state of its own (:meth:`bound`), and
    let it begin when training does (:meth:`begin_`). In plain PyTorch the first call does both.

    Args:
        include_biases: Count biases and normalisation scales too.
        pattern: The names of the parameters that count, such as ``"features.*"``, or several; None for all weights.

    Attributes:
        begun: 1 once training has begun, int64.
    """

    begun: Tensor

    def __init__(self, *, include_biases: bool = False, pattern: Pattern = None) -> None:
        super().__init__()
        self.include_biases = include_biases
        self.pattern = as_patterns(pattern)
        self._knows_weights = False
        # an integer: not every backend of distributed training sends bools
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def remembered(self, module: nn.Module, name: str, weight: Tensor) -> Tensor:
        """Give what is remembered of a weight at the start, a tensor of its own."""

    def bound(self, network: nn.Module) -> Self:
        """Give a copy with the state for a network. One that has begun already goes on where it is.

        Raises:
            ValueError: If ``pattern`` names nothing, or the state is of another network.
        """
        penalty = deepcopy(self)
        if not penalty.begun:
            penalty._remember_(network)
        for name, _ in penalty._all(network):
            penalty.memory(name)
        return penalty

    @torch.no_grad()
    def begin_(self, network: nn.Module) -> None:
        """Remember the weights as they are now, unless training has begun before, maybe in another run."""
        if not self.begun:
            self._remember_(network)
            self.begun.fill_(1)

    def memory(self, name: str) -> Tensor:
        """Give what is remembered of a weight.

        Args:
            name: The weight's name in the network.

        Raises:
            ValueError: If there is nothing.
        """
        buffer = self._buffers.get(_key(name))
        if buffer is None:
            raise ValueError(
                f"{type(self).__name__} remembers nothing of the parameter {name!r}: the network has changed since, or "
                "is another one; make a new penalty for it."
            )
        return buffer

    def __call__(self, module: nn.Module, *, epoch: float = math.inf) -> Tensor:
        """Give the penalty of ``module``, a scalar on its device; the first call begins.

        Args:
            module: The network.
            epoch: The epoch whose coefficient counts.
        """
        # reading `begun` would wait for the device
        if not self._knows_weights:
            self.begin_(module)
        return super().__call__(module, epoch=epoch)

    def selected(self, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
        """Give names and parameters that count."""
        return list(weights(module, include_biases=self.include_biases, pattern=self.pattern))

    def _all(self, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
        # those that are frozen now may be trained later
        kept = {"include_biases": self.include_biases, "pattern": self.pattern}
        return list(weights(module, **kept, include_frozen=True))  # type: ignore[arg-type]

    @torch.no_grad()
    def _remember_(self, module: nn.Module) -> None:
        self._knows_weights = True
        for name, weight in self._all(module):
            kept, memory = self._buffers.get(_key(name)), self.remembered(module, name, weight.detach())
            if kept is None or kept.shape != memory.shape:
                self.register_buffer(_key(name), memory)
            else:
                # distributed training keeps hold of the tensors that it found
                kept.copy_(memory)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        if not any(key.startswith(prefix) for key in state_dict):
            # a checkpoint of a run without this penalty: it begins when training does
            return
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key.removeprefix(prefix)
            if name.startswith("of/") and name not in self._buffers:
                # a new penalty has no state yet, and torch would refuse that of a checkpoint
                self.register_buffer(name, torch.empty_like(state_dict[key], device=self.begun.device))
        self._knows_weights = len(self._buffers) > 1
        super()._load_from_state_dict(state_dict, prefix, *args)


def _key(name: str) -> str:
    # buffers have no dots in their names; the prefix keeps them apart from attributes such as `weight`
    return f"of/{name.replace('.', '/')}"
