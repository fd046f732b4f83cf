"""Adversarial training on the worst case found."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_advreg.attacks import Model
from lightning_advreg.networks.dual_norm import run_clean
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class PGDAT(Objective):
    """Cross-entropy at the attacked images (Madry et al. 2018, eq. 2.1): ``min E[max_delta CE(f(x + delta), y)]``.

    With the attack ``PGD`` this is PGD-AT, with ``FGSM(random_start=True)`` it is FGSM-RS (Wong et al. 2020). A
    ``clean_weight`` of a mixes in the clean loss, ``a CE(f(x), y) + (1 - a) CE(f(x_adv), y)`` (Goodfellow et al. 2015,
    section 6), at the price of one more forward pass.

    Args:
        label_smoothing: The share of each label spread evenly over all classes, in [0, 1).
        clean_weight: The weight of the clean loss, in [0, 1).

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from lightning_advreg.attacks import FGSM
        >>> x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0])
        >>> round(PGDAT()(torch.nn.Flatten(), x, y, FGSM(eps=0.25)).loss.item(), 4)  # log(1 + exp(0.5))
        0.9741
    """

    label_smoothing: Number = 0.0
    clean_weight: Number = 0.0

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "clean_weight"):
            object.__setattr__(self, name, to_float(getattr(self, name), name, minimum=0, below=1))

    @property
    def sees_clean(self) -> bool:
        """Whether there is a clean loss."""
        return to_float(self.clean_weight, "clean_weight") > 0

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the cross-entropy at the attacked images."""
        smoothing = to_float(self.label_smoothing, "label_smoothing")
        weight = to_float(self.clean_weight, "clean_weight")
        logits_adv = model(crafted[0])
        loss = F.cross_entropy(logits_adv, y, label_smoothing=smoothing)
        if weight == 0:
            return ObjectiveOutput(loss, logits_adv=logits_adv)
        logits = run_clean(model, x)
        clean_loss = F.cross_entropy(logits, y, label_smoothing=smoothing)
        return ObjectiveOutput(weight * clean_loss + (1 - weight) * loss, logits, logits_adv)
