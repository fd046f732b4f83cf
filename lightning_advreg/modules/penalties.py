"""What classifiers and GANs do with penalties: bind them to a network, add them to a loss, log them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_advreg.modules.base import by_name
from lightning_advreg.penalties import Penalty, PenaltyValue, TrainingPass
from lightning_advreg.penalties.in_training import AnyPenalty, bind, counted_twice, evaluate


class PenaltyStates(nn.ModuleDict):
    """The penalties that have a state, by name, for a LightningModule to move and to save them.

    A checkpoint may hold more or fewer of them: a network can be trained further, or tested, with other penalties.

    Example:
        >>> from lightning_advreg.penalties import L2SP
        >>> stored = PenaltyStates({"l2sp": L2SP(0.1)}).state_dict()
        >>> PenaltyStates().load_state_dict(stored)
        <All keys matched successfully>
    """

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        *lists: list[str],
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, False, *lists)


def gan_penalties(network: nn.Module, penalties: Sequence[AnyPenalty]) -> dict[str, AnyPenalty]:
    """Bind penalties to a network of a GAN.

    Args:
        network: The network.
        penalties: The penalties.

    Raises:
        TypeError: If one needs labels, or the logits of classes.
    """
    for penalty in penalties:
        if isinstance(penalty, Penalty) and penalty.on_images:
            raise TypeError(
                f"{type(penalty).__name__} is for classifiers: it needs labels or the logits of classes, which a GAN "
                "has not; give a GAN penalties on weights or activations, such as L2, or a function from the network "
                "to a scalar."
            )
    return bind(by_name(penalties), network)


def states(penalties: Mapping[str, object]) -> PenaltyStates:
    """Give the penalties that have a state.

    Example:
        >>> from lightning_advreg.penalties import L2, L2SP
        >>> list(states({"l2": L2(0.1), "l2sp": L2SP(0.1)}))
        ['l2sp']
    """
    return PenaltyStates({name: penalty for name, penalty in penalties.items() if isinstance(penalty, nn.Module)})


def add_penalties(
    module: LightningModule,
    prefix: str,
    penalties: Mapping[str, AnyPenalty],
    training_pass: TrainingPass,
    epoch: float,
    loss: Tensor,
) -> Tensor:
    """Add penalties to a loss, and log ``<prefix>/<name>``, as added, and ``<prefix>/<name>_raw``, without coefficient.

    Args:
        module: The module that logs.
        prefix: What the names in the log begin with.
        penalties: The penalties by name.
        training_pass: The pass through the network that the loss is computed from.
        epoch: The number of epochs done, with its fraction.
        loss: The loss without penalties.

    Returns:
        The loss with them.
    """
    return add_values(module, prefix, evaluate(penalties, training_pass, epoch), loss)


def add_values(
    module: LightningModule, prefix: str, values: Iterable[tuple[str, PenaltyValue]], loss: Tensor
) -> Tensor:
    """Add values of penalties to a loss, and log them, as ``add_penalties`` does.

    Args:
        module: The module that logs.
        prefix: What the names in the log begin with.
        values: The values by name.
        loss: The loss without them.

    Returns:
        The loss with them.
    """
    for name, (value, raw) in values:
        module.log(f"{prefix}/{name}", value.detach())
        if raw is not None:
            module.log(f"{prefix}/{name}_raw", raw.detach())
        loss = loss + value
    return loss


def warn_of_double_decay(penalties: Mapping[str, AnyPenalty], network: nn.Module, optimizer: Optimizer) -> None:
    """Say so where a penalty and the optimizer's weight decay both count the squares of the same weights."""
    twice = counted_twice(penalties, network, optimizer)
    if twice is not None:
        rank_zero_warn(twice)
