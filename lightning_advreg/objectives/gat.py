"""Guided adversarial training."""

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks import Attack, Model, borrowed
from lightning_advreg.attacks.objective import input_gradient
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.networks.dual_norm import run_clean
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.objectives.single_step import bernoulli_start, budget, fgsm_step
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class GAT(Objective):
    """Clean cross-entropy and the change of the probabilities under one guided step (Sriramanan et al. 2020).

    With ``p(x) = softmax(f(x))``, and means over the batch::

        s      = clip(x + start * eps * b),  every entry of b is -1 or 1 at random
        x_adv  = P(s + eps * sign(grad_s [CE(f(s), y) + weight ||p(s) - p(x)||^2]))
        loss   = CE(f(x), y) + weight ||p(x_adv) - p(x)||^2

    The guiding second term is left out of the step in every other batch, starting with the first, as in the authors'
    code; outside of a trainer it is there.

    Of the attack only ``radius`` and ``model_mode`` are used. Mode ``eval``, the default of attacks, is that of the
    authors in the step. A batch takes three forward passes, and one more of the clean images in that mode where the
    step is guided.

    Args:
        weight: The weight of the squared distance. The authors train with 10 on CIFAR-10 and with 15 on MNIST, and with
            more (4 and 3 times as much) at the end of training.
        start: The size of the random start, as a share of eps, in [0, 1]. The authors use 1/2 on CIFAR-10 with eps
            8/255, and 1 on MNIST with eps 0.3.

    Raises:
        TypeError: If the attack has no radius.
        ValueError: If an argument is out of its range, or the attack's norm is not linf.

    Example:
        >>> from lightning_advreg.attacks import FGSM
        >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
        >>> output = GAT(weight=15, start=1)(torch.nn.Flatten(), x, y, FGSM(eps=0.3))
        >>> bool(output.loss > F.cross_entropy(output.logits, y))
        True
    """

    # no annotation, which would make it an argument
    sees_clean = True

    weight: Number = 10.0
    start: Number = 0.5
    _guided: bool = field(default=True, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", to_float(self.weight, "weight", minimum=0))
        object.__setattr__(self, "start", to_float(self.start, "start", minimum=0, maximum=1))

    def during(self, progress: float, step: int) -> Self:
        """Give the objective for a batch: its step is guided in odd batches."""
        moment = copy.copy(self)
        object.__setattr__(moment, "_guided", step % 2 == 1)
        return moment

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Take the step."""
        eps, mode = budget(attack, "GAT")
        weight = to_float(self.weight, "weight")
        with borrowed(model, mode):
            start = bernoulli_start(x, to_float(self.start, "start") * eps).requires_grad_()
            logits = working_precision(model(start))
            # N times the objective of the step, whose gradient has the same sign
            value = F.cross_entropy(logits, y, reduction="sum")
            if self._guided and weight > 0:
                with torch.no_grad():
                    clean = working_precision(run_clean(model, x))
                value = value + weight * _squared_distances(logits, clean).sum()
            return (fgsm_step(start, input_gradient(value, start), x, eps),)

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the clean loss and the mean squared distance of the probabilities."""
        logits_adv = model(crafted[0])
        logits = run_clean(model, x)
        distance = _squared_distances(working_precision(logits_adv), working_precision(logits)).mean()
        loss = F.cross_entropy(logits, y) + to_float(self.weight, "weight") * distance
        return ObjectiveOutput(loss, logits, logits_adv)


def _squared_distances(logits: Tensor, other: Tensor) -> Tensor:
    """Give ``||softmax(z) - softmax(z')||^2`` for each row, of shape ``(N,)``."""
    return (logits.softmax(1) - other.softmax(1)).square().sum(1)
