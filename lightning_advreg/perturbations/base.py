"""What every weight perturbation is: climb, differentiate there, come back."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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
        """Run passes at the moved weights; an error among them puts the weights back."""
        try:
            with _statistics(self._network, kept=self._freeze):
                yield
        except BaseException:
            self.back_()
            raise

    @torch.no_grad()
    def back_(self) -> None:
        """Put the weights back, bit for bit; once."""
        if self._before:
            parameters = dict(self._network.named_parameters())
            for name, value in self._before.items():
                parameters[name].copy_(value)
            self._before = {}
            torch.clear_autocast_cache()


@dataclass(frozen=True, kw_only=True)
class WeightPerturbation(ABC):
    """Train at weights that were moved to where the loss is higher.

    A training step climbs from the weights w to w + v, differentiates the loss there, goes back to w and takes the
    optimizer's step with that gradient. So weight decay and constraints see w. Over several processes each climbs on
    its own images, as in the papers.

    Args:
        start_epoch: The first epoch in which it acts; may be fractional.
    """

    start_epoch: Number = 0

    first_pass_updates_statistics: ClassVar[bool] = True
    """Whether BatchNorm statistics follow the pass at w; otherwise they follow that at w + v."""

    needs_gradient: ClassVar[bool] = True
    """Whether moves depend on the gradient at w, which costs a pass."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "start_epoch", to_float(self.start_epoch, "start_epoch", minimum=0))

    @abstractmethod
    def offsets(self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the moves v, by name.

        Args:
            parameters: The parameters that move, by name.
            gradients: The gradients of the loss, by the same names; zeros where the loss does not depend on one, and
                none at all where ``needs_gradient`` is False.
        """

    def moving(self, network: nn.Module) -> dict[str, nn.Parameter]:
        """Give the parameters that move, by name: all that are trained."""
        return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}

    def climb_(self, network: nn.Module, loss: Callable[[], Tensor]) -> Climb:
        """Move the weights of a network, in place.

        Args:
            network: The network, in training mode.
            loss: Gives the loss at the weights of the moment; it is called once, or not at all where the moves need no
                gradient.

        Returns:
            The way back.

        Raises:
            ValueError: If the network has no weights to move.
        """
        parameters = self.moving(network)
        if not parameters:
            raise ValueError(
                f"{type(self).__name__} finds no weights to move in {type(network).__name__}; unfreeze some "
                "(requires_grad), or leave weight_perturbation out."
            )
        gradients = self._gradients(network, parameters, loss) if self.needs_gradient else {}
        with torch.no_grad():
            moves = self.offsets(parameters, gradients)
            before = {name: parameters[name].detach().clone() for name in moves}
            climb = Climb(network, before, freeze_statistics=self.first_pass_updates_statistics)
            try:
                for name, move in moves.items():
                    parameters[name].add_(move)
            except BaseException:
                climb.back_()
                raise
        # autocast keeps half-precision copies of the weights, which do not notice that these have moved
        torch.clear_autocast_cache()
        return climb

    def _gradients(
        self, network: nn.Module, parameters: Mapping[str, nn.Parameter], loss: Callable[[], Tensor]
    ) -> dict[str, Tensor]:
        with _statistics(network, kept=not self.first_pass_updates_statistics):
            grads = torch.autograd.grad(loss(), list(parameters.values()), allow_unused=True)
        return {
            name: torch.zeros_like(p) if grad is None else grad
            for (name, p), grad in zip(parameters.items(), grads, strict=True)
        }


def length(tensors: Iterable[Tensor]) -> Tensor:
    """Give the L2 norm of all entries of all tensors, in float32 at least.

    Example:
        >>> length([torch.tensor([3.0]), torch.tensor([[0.0], [4.0]])])
        tensor(5.)
    """
    norms = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    return torch.linalg.vector_norm(torch.stack(norms))


def direction(tensor: Tensor, norm: Tensor) -> Tensor:
    """Give ``tensor / norm``, and zeros where both are zero."""
    # below this, squares in float32 vanish, and the quotient with them
    return tensor.to(norm.dtype) / norm.clamp(min=1e-20)


@contextmanager
def _statistics(network: nn.Module, *, kept: bool) -> Iterator[None]:
    """Keep running statistics as they are, layer by layer: a network may be frozen in part, or as a whole."""
    with ExitStack() as stack:
        for layer in network.modules():
            if kept and layer.training and getattr(layer, "track_running_stats", False):
                stack.enter_context(in_mode(layer, "batch_stats"))
        yield
