"""MART: adversarial training that cares most for images the network gets wrong."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_advreg.attacks import Attack, Model
from lightning_advreg.attacks.losses import kl
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.attacks.variants import maximising
from lightning_advreg.networks.dual_norm import run_clean
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class MART(Objective):
    """Misclassification-aware adversarial training (Wang et al. 2020).

    The loss is the mean over images of

    ``BCE(p', y) + beta * KL(p || p') * (1 - p_y)`` with ``BCE = -log p'_y - log(1 - max_{k != y} p'_k)``,

    where ``p = softmax(f(x))`` and ``p' = softmax(f(x_adv))``. The margin term of BCE lowers the most likely wrong
    class; the last factor weighs an image by how unsure the network is of it without an attack. No gradient is cut off.
    As in the authors' code, 1 is 1.0001 in BCE and 1.0000001 in the factor, so that no logarithm is of 0. The attack
    maximises cross-entropy, whatever its own loss is.

    Args:
        beta: The weight of KL, at least 0; 5 in the paper.

    Raises:
        ValueError: If ``beta`` is negative.

    Example:
        >>> from lightning_advreg.attacks import FGSM
        >>> x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0])
        >>> round(MART(beta=0)(torch.nn.Flatten(), x, y, FGSM(eps=0.25)).loss.item(), 3)  # 2 log(1 + exp(0.5))
        1.948
    """

    # no annotation, which would make it an argument
    sees_clean = True

    beta: Number = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", to_float(self.beta, "beta", minimum=0))

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Attack the batch, for a high cross-entropy."""
        return (maximising(attack, "ce")(model, x, y),)

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the boosted cross-entropy and the weighted divergence."""
        logits, logits_adv = working_precision(run_clean(model, x)), working_precision(model(crafted[0]))
        label = y.unsqueeze(1)
        wrong = logits_adv.softmax(1).scatter(1, label, -torch.inf).max(1).values
        boosted = F.cross_entropy(logits_adv, y) - (1.0001 - wrong + 1e-12).log().mean()
        unsure = 1.0000001 - logits.softmax(1).gather(1, label).squeeze(1)
        divergence = (kl(logits_adv, y, logits) * unsure).mean()
        return ObjectiveOutput(boosted + to_float(self.beta, "beta") * divergence, logits, logits_adv)
