"""Adversarial logit pairing."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lightning_advreg.attacks import Model
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.networks.dual_norm import run_clean
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class ALP(Objective):
    """Adversarial logit pairing (Kannan et al. 2018): clean and attacked logits are to be alike.

    With the clean share a = ``clean_weight``, the loss is

    ``a CE(f(x), y) + (1 - a) CE(f(x_adv), y) + weight * mean((f(x) - f(x_adv))^2)``,

    the last mean over images and classes, as in the authors' code. The paper trains on clean and attacked images in
    equal shares ("mixed minibatch PGD"): a = 1/2. There the two halves form one batch; here each goes through the
    network by itself, so that BatchNorm sees them apart. Gradients flow through both logits.

    Args:
        weight: The coefficient of the pairing term, at least 0; 0.5 in the paper on ImageNet.
        clean_weight: The clean share, in [0, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from lightning_advreg.attacks import FGSM
        >>> x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0])
        >>> round(ALP(weight=2)(torch.nn.Flatten(), x, y, FGSM(eps=0.25)).loss.item(), 4)  # 0.8336 + 2 / 16
        0.9586
    """

    # no annotation, which would make it an argument
    sees_clean = True

    weight: Number = 0.5
    clean_weight: Number = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", to_float(self.weight, "weight", minimum=0))
        object.__setattr__(self, "clean_weight", to_float(self.clean_weight, "clean_weight", minimum=0, maximum=1))

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the cross-entropies and the pairing term."""
        share = to_float(self.clean_weight, "clean_weight")
        logits, logits_adv = working_precision(run_clean(model, x)), working_precision(model(crafted[0]))
        classification = share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits_adv, y)
        pairing = (logits - logits_adv).square().mean()
        return ObjectiveOutput(classification + to_float(self.weight, "weight") * pairing, logits, logits_adv)
