"""The critic penalties of a training step."""

import copy
from collections.abc import Iterator, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_advreg.penalties.base import PenaltyValue, Weighted
from lightning_advreg.penalties.critic import AnyCriticPenalty, CriticPass, CriticPenalty
from lightning_advreg.penalties.in_training import scalar


def bind_critic(penalties: Mapping[str, AnyCriticPenalty], discriminator: nn.Module) -> dict[str, AnyCriticPenalty]:
    """Check critic penalties against a discriminator, and give them with state of their own.

    Raises:
        TypeError: If one is neither a critic penalty nor a function.
        ValueError: If one differentiates each image's logit and the discriminator normalises by the batch.
    """
    for penalty in penalties.values():
        if (isinstance(penalty, Weighted) and not isinstance(penalty, CriticPenalty)) or not callable(penalty):
            raise TypeError(
                "critic_penalties must be critic penalties, such as R1, or functions (discriminator, real, fake, y) -> "
                f"scalar, got {penalty!r}; give penalties on weights or activations as discriminator_penalties."
            )
    check_critic(penalties, discriminator)
    return {name: copy.deepcopy(p) if isinstance(p, nn.Module) else p for name, p in penalties.items()}


def check_critic(penalties: Mapping[str, AnyCriticPenalty], discriminator: nn.Module) -> None:
    """Refuse BatchNorm, of whatever kind, in a discriminator with penalties on the gradient of single images.

    Raises:
        ValueError: If there is both; the message says which layer it is, why, and what to do.

    Example:
        >>> from lightning_advreg.penalties import R1
        >>> check_critic({"r1": R1(1.0)}, nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        Traceback (most recent call last):
        ...
        ValueError: R1 and BatchNorm do not go together in a discriminator (layer '1' is BatchNorm1d): ...
    """
    names = [type(p).__name__ for p in penalties.values() if isinstance(p, CriticPenalty) and p.per_sample]
    layers = [(name, type(m).__name__) for name, m in discriminator.named_modules() if isinstance(m, _BatchNorm)]
    if names and layers:
        raise ValueError(
            f"{names[0]} and BatchNorm do not go together in a discriminator (layer {layers[0][0]!r} is "
            f"{layers[0][1]}): it makes the logit of an image depend on the others in the batch, so that there is no "
            "gradient of a single image to penalise. Build the discriminator with norm='group', 'instance', 'layer' or "
            "'none', or with spectral normalisation."
        )


def evaluate_critic(
    penalties: Mapping[str, AnyCriticPenalty], critic_pass: CriticPass, epoch: float, step: int
) -> Iterator[tuple[str, PenaltyValue]]:
    """Give the values of critic penalties in a training step.

    Args:
        penalties: The penalties by name.
        critic_pass: The discriminator's step.
        epoch: The number of epochs before it, with its fraction.
        step: The number of discriminator steps before it.

    Raises:
        TypeError: If a function of the user's own gives no scalar tensor.

    Yields:
        Names and values; nothing for a penalty that skips the step, or whose gradient is expensive and coefficient 0.
    """
    for name, penalty in penalties.items():
        if not isinstance(penalty, CriticPenalty):
            given = penalty(critic_pass.discriminator, critic_pass.real, critic_pass.fake, critic_pass.y)
            yield name, PenaltyValue(scalar(name, given))
        elif due(penalty, epoch, step):
            value, raw = penalty.weigh(penalty.terms(critic_pass), epoch)
            yield name, PenaltyValue(penalty.factor(step) * value, raw)


def due(penalty: AnyCriticPenalty, epoch: float, step: int) -> bool:
    """Say whether a penalty is to be computed in a step.

    Args:
        penalty: The penalty.
        epoch: The number of epochs before the step, with its fraction.
        step: The number of discriminator steps before it.
    """
    if not isinstance(penalty, CriticPenalty):
        return True
    # one with a state has to follow every step
    idle = not isinstance(penalty, nn.Module) and not any(penalty.strengths(epoch))
    return penalty.factor(step) != 0 and not idle
