"""TRADES: clean accuracy, and a prediction that an attack does not change."""

from dataclasses import dataclass

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
class TRADES(Objective):
    """``CE(f(x), y) + beta * max_delta KL(f(x) || f(x + delta))`` (Zhang et al. 2019, algorithm 1).

    KL is summed over classes and averaged over the batch, and the gradient flows through both of its sides. The clean
    and the attacked batch go through the network one after the other, so that BatchNorm sees each by itself.

    The attack is put on the loss ``kl``, whatever its own is, and must begin at a random point, since KL has no
    gradient at the clean image. The paper's attack is ``PGD(eps=0.031, step_size=0.007, steps=10)``, but for its start:
    0.001 N(0, 1) around the image, where ``PGD`` starts anywhere in the ball.

    Args:
        beta: The weight of KL, at least 0; 1 to 10 in the paper, 6 in its best result.
        label_smoothing: The share of each label spread evenly over all classes, in the clean loss, in [0, 1).

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> from lightning_advreg.attacks import PGD
        >>> x, y = torch.rand(2, 1, 1, 3), torch.tensor([0, 2])
        >>> output = TRADES(beta=6)(torch.nn.Flatten(), x, y, PGD(eps=0.1))
        >>> output.logits.shape, output.logits_adv.shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """

    # no annotation, which would make it an argument
    sees_clean = True

    beta: Number = 6.0
    label_smoothing: Number = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", to_float(self.beta, "beta", minimum=0))
        smoothing = to_float(self.label_smoothing, "label_smoothing", minimum=0, below=1)
        object.__setattr__(self, "label_smoothing", smoothing)

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Attack the batch, for a prediction far from the clean one."""
        return (maximising(attack, "kl")(model, x, y),)

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the clean loss and the weighted divergence."""
        logits, logits_adv = working_precision(run_clean(model, x)), working_precision(model(crafted[0]))
        clean_loss = F.cross_entropy(logits, y, label_smoothing=to_float(self.label_smoothing, "label_smoothing"))
        divergence = kl(logits_adv, y, logits).mean()
        return ObjectiveOutput(clean_loss + to_float(self.beta, "beta") * divergence, logits, logits_adv)
