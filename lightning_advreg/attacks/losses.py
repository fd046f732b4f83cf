"""What an attack maximises: one value per image, higher where the classifier is closer to being wrong."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

LossName: TypeAlias = Literal["ce", "margin", "dlr", "kl"]
"""The names of the losses an attack can maximise."""

AttackLoss: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From logits ``(N, K)``, labels ``(N,)`` and the logits of the clean images ``(N, K)`` to losses ``(N,)``."""


def cross_entropy(logits: Tensor, y: Tensor, clean: Tensor) -> Tensor:
    """Give ``-log softmax(z)_y``."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor, clean: Tensor) -> Tensor:
    """Give ``max_{j != y} z_j - z_y`` (Carlini & Wagner 2017, f_6 without the clamp): positive means misclassified."""
    own = logits.gather(1, y.unsqueeze(1)).squeeze(1)
    return logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1) - own


def dlr(logits: Tensor, y: Tensor, clean: Tensor) -> Tensor:
    """Give ``-(z_y - max_{j != y} z_j) / (z_(1) - z_(3))`` with sorted logits z_(1) >= z_(2) >= ...

    The difference of logits ratio (Croce & Hein 2020, eq. 6) does not change when the logits are scaled or shifted.
    """
    top = logits.topk(3, dim=1).values
    return margin(logits, y, clean) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(logits: Tensor, target: Tensor, clean: Tensor) -> Tensor:
    """Give ``-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)`` (Croce & Hein 2020, eq. 7).

    The class y that is left is the one predicted for the clean image or, where that is the target, the runner-up.
    """
    top = logits.topk(4, dim=1).values
    source = clean.scatter(1, target.unsqueeze(1), -torch.inf).argmax(1)
    left, aim = (logits.gather(1, index.unsqueeze(1)).squeeze(1) for index in (source, target))
    return (aim - left) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def kl(logits: Tensor, y: Tensor, clean: Tensor) -> Tensor:
    """Give ``KL(softmax(z_clean) || softmax(z))``, the inner loss of TRADES (Zhang et al. 2019), without labels."""
    return F.kl_div(F.log_softmax(logits, 1), F.log_softmax(clean, 1), reduction="none", log_target=True).sum(1)


def cross_entropy_targeted(logits: Tensor, target: Tensor, clean: Tensor) -> Tensor:
    """Give ``log softmax(z)_t``."""
    return -cross_entropy(logits, target, clean)


def margin_targeted(logits: Tensor, target: Tensor, clean: Tensor) -> Tensor:
    """Give ``z_t - max_{j != t} z_j``: positive means classified as the target."""
    return -margin(logits, target, clean)


class _Entry(NamedTuple):
    function: AttackLoss
    classes: int
    needs_clean: bool = False


_LOSSES: dict[tuple[str, bool], _Entry] = {
    ("ce", False): _Entry(cross_entropy, 2),
    ("ce", True): _Entry(cross_entropy_targeted, 2),
    ("margin", False): _Entry(margin, 2),
    ("margin", True): _Entry(margin_targeted, 2),
    ("dlr", False): _Entry(dlr, 3),
    ("dlr", True): _Entry(dlr_targeted, 4, needs_clean=True),
    ("kl", False): _Entry(kl, 2, needs_clean=True),
}


def check_loss(loss: str, targeted: bool) -> None:
    """Raise a ValueError unless the loss exists, in its targeted form if that is asked for."""
    if (loss, False) not in _LOSSES:
        names = ", ".join(name for name, targeted in _LOSSES if not targeted)
        raise ValueError(f"loss must be one of {names}, got {loss!r}.")
    if (loss, targeted) not in _LOSSES:
        raise ValueError(f"loss {loss!r} has no targeted form, since it ignores labels; use loss='ce' or 'margin'.")


def check_start(loss: str, random_start: bool) -> None:
    """Raise a ValueError if the loss gives no gradient where the attack starts."""
    if loss == "kl" and not random_start:
        raise ValueError("loss 'kl' has a zero gradient at the clean image; set random_start=True.")


def needs_clean_logits(loss: LossName, targeted: bool) -> bool:
    """Tell whether the loss compares with the logits of the clean images."""
    return _LOSSES[loss, targeted].needs_clean


def attack_loss(loss: LossName, targeted: bool, num_classes: int) -> AttackLoss:
    """Give the function that an attack maximises.

    Args:
        loss: The name of the loss.
        targeted: Whether labels are targets to reach, rather than classes to leave.
        num_classes: How many logits the network has.

    Raises:
        ValueError: If the loss is undefined for so few classes.

    Example:
        >>> margin = attack_loss("margin", targeted=False, num_classes=2)
        >>> margin(torch.tensor([[1.0, 3.0]]), torch.tensor([0]), torch.empty(1, 2))
        tensor([2.])
    """
    entry = _LOSSES[loss, targeted]
    if num_classes < entry.classes:
        kind = "targeted loss" if targeted else "loss"
        remedy = "use loss='margin'" if num_classes > 1 else "give the network one output per class"
        raise ValueError(
            f"{kind} {loss!r} needs at least {entry.classes} classes, the network gives {num_classes}; {remedy}."
        )
    return entry.function
