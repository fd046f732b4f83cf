"""The penalties of a training step, of whatever kind."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_advreg.penalties.activity import ActivityL1
from lightning_advreg.penalties.base import Penalty, PenaltyValue, WeightPenalty
from lightning_advreg.penalties.critic import CriticPenalty
from lightning_advreg.penalties.training_pass import TrainingPass

AnyPenalty: TypeAlias = Penalty | Callable[[nn.Module], Tensor]
"""A penalty of this library, or a function from the network to a scalar."""

P = TypeVar("P", bound=AnyPenalty)


def bind(penalties: Mapping[str, P], network: nn.Module) -> dict[str, P]:
    """Check penalties against a network, and give those of this network.

    Args:
        penalties: The penalties by name.
        network: The network that is to be trained.

    Raises:
        TypeError: If one is neither a penalty nor a function, or is for the images of a GAN.
        ValueError: If one names parameters or layers that the network does not have.
    """
    bound: dict[str, Any] = {}
    for name, penalty in penalties.items():
        if isinstance(penalty, CriticPenalty):
            raise TypeError(
                f"{type(penalty).__name__} is for the discriminator of a GAN, by its real and generated images; give "
                "it as critic_penalties of GAN."
            )
        if not (callable(penalty) or isinstance(penalty, Penalty)):
            raise TypeError(f"penalties must be penalties or functions from the network to a scalar, got {penalty!r}.")
        bound[name] = penalty.bound(network) if isinstance(penalty, Penalty) else penalty
    return bound


def begin(penalties: Mapping[str, AnyPenalty], network: nn.Module) -> None:
    """Let penalties remember what they need of the weights that training starts with."""
    for penalty in penalties.values():
        if isinstance(penalty, Penalty):
            penalty.begin_(network)


@contextmanager
def watching(penalties: Mapping[str, AnyPenalty], network: nn.Module) -> Iterator[dict[int, Any]]:
    """Let penalties watch layers of a network within this context.

    Args:
        penalties: The penalties by name.
        network: The network.

    Yields:
        What they see, for :class:`TrainingPass`.
    """
    with ExitStack() as stack:
        yield {
            id(penalty): stack.enter_context(penalty.watching(network))
            for penalty in penalties.values()
            if isinstance(penalty, ActivityL1)
        }


def evaluate(
    penalties: Mapping[str, AnyPenalty], training_pass: TrainingPass, epoch: float
) -> Iterator[tuple[str, PenaltyValue]]:
    """Give the values of penalties in a training step.

    Args:
        penalties: The penalties by name.
        training_pass: The step.
        epoch: The number of epochs before it, with its fraction.

    Yields:
        Names and values. One whose gradients are expensive is left out of the computation while its coefficient is 0.

    Example:
        >>> from lightning_advreg.penalties import L1
        >>> net = nn.Linear(2, 1)
        >>> _ = nn.init.ones_(net.weight)
        >>> for name, (value, raw) in evaluate({"l1": L1(0.5)}, TrainingPass(net), epoch=0):
        ...     print(name, value.item(), raw.item())
        l1 1.0 2.0

    Raises:
        TypeError: If a function of the user's own gives no scalar tensor.
    """
    network = training_pass.network
    for name, penalty in penalties.items():
        if not isinstance(penalty, Penalty):
            yield name, PenaltyValue(scalar(name, penalty(network)))
        elif penalty.double_backward and not any(penalty.strengths(epoch)):
            yield name, PenaltyValue(next(network.parameters(), torch.empty(0)).new_zeros(()))
        else:
            yield name, penalty.weigh(penalty.terms_of(training_pass), epoch)


def scalar(name: str, value: object) -> Tensor:
    """Give what a function of the user's own computed back, after a look at it.

    Raises:
        TypeError: If it is no scalar tensor.
    """
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise TypeError(
        f"penalty {name!r} must give a scalar tensor, got {given}; add up what it computes with torch, as in "
        "`sum(p.square().sum() for p in network.parameters())`."
    )


def counted_twice(penalties: Mapping[str, AnyPenalty], network: nn.Module, optimizer: Optimizer) -> str | None:
    """Say which penalty counts squares of weights that the optimizer's weight decay counts too.

    Args:
        penalties: The penalties by name.
        network: The network.
        optimizer: The optimizer.

    Returns:
        A warning, or None.
    """
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups if g.get("weight_decay", 0) for p in g["params"]}
    for name, penalty in penalties.items():
        shrunk = penalty.shrunk(network) if isinstance(penalty, WeightPenalty) else ()
        both = [decay[id(parameter)] for parameter in shrunk if id(parameter) in decay]
        if both:
            return (
                f"The squared weights count twice: in penalty {name!r} and in the optimizer's "
                f"weight_decay={max(both):g}. Set one of them to 0."
            )
    return None
