"""Nuclear norm adversarial training."""

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


def nuclear_norm(matrix: Tensor) -> Tensor:
    """Give the sum of the singular values of a matrix, in float32 at least.

    Its gradient ``U V'`` is finite everywhere: where singular values are equal or 0, it is one of the subgradients.

    Args:
        matrix: Of shape ``(N, K)``.

    Returns:
        A scalar of dtype float32, or float64 for a matrix of float64.

    Example:
        >>> round(nuclear_norm(torch.tensor([[3.0, 0.0], [0.0, -4.0]])).item(), 4)
        7.0
    """
    with torch.autocast(matrix.device.type, enabled=False):
        return torch.linalg.matrix_norm(working_precision(matrix), ord="nuc")


@dataclass(frozen=True, kw_only=True)
class NuAT(Objective):
    """Clean cross-entropy and the nuclear norm of what one attack step does to the logits (Sriramanan et al. 2021).

    With ``||.||_*`` the sum of the singular values of the ``(N, K)`` matrix of a batch::

        s      = clip(x + start * eps * b),  every entry of b is -1 or 1 at random
        x_adv  = P(s + eps * sign(grad_s [CE(f(s), y) + lambda ||f(s) - f(x)||_* / N]))
        loss   = CE(f(x), y) + lambda ||f(x_adv) - f(x)||_* / N

    The norm is left out of the step in every other batch, starting with the first, as in the authors' code. ``lambda``
    rises linearly from 0 to ``weight`` over training; outside of a trainer it is ``weight``, and the step has the norm.

    Of the attack only ``radius`` and ``model_mode`` are used. Mode ``eval``, the default of attacks, is that of the
    authors in the step. A batch takes three forward passes, and one more of the clean images in that mode where the
    step has the norm.

    Args:
        weight: The value of ``lambda`` at the end of training. The authors' code for CIFAR-10 has 4.5, which it reaches
            10 epochs before the end.
        start: The size of the random start, as a share of eps, in [0, 1].

    Raises:
        TypeError: If the attack has no radius.
        ValueError: If an argument is out of its range, or the attack's norm is not linf.

    Example:
        >>> from lightning_advreg.attacks import FGSM
        >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2])
        >>> half_way = NuAT().during(progress=0.5, step=0)
        >>> output = half_way(torch.nn.Flatten(), x, y, FGSM(eps="8/255"))
        >>> difference = nuclear_norm(output.logits_adv - output.logits)
        >>> torch.allclose(output.loss, F.cross_entropy(output.logits, y) + 2 * difference / 3)
        True
    """

    # no annotation, which would make it an argument
    sees_clean = True

    weight: Number = 4.0
    start: Number = 0.5
    _progress: float = field(default=1.0, init=False, repr=False, compare=False)
    _guided: bool = field(default=True, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", to_float(self.weight, "weight", minimum=0))
        object.__setattr__(self, "start", to_float(self.start, "start", minimum=0, maximum=1))

    def during(self, progress: float, step: int) -> Self:
        """Give the objective with the weight of a moment of training; the norm is in the step of odd batches."""
        moment = copy.copy(self)
        object.__setattr__(moment, "_progress", progress)
        object.__setattr__(moment, "_guided", step % 2 == 1)
        return moment

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Take the step."""
        eps, mode = budget(attack, "NuAT")
        with borrowed(model, mode):
            start = bernoulli_start(x, to_float(self.start, "start") * eps).requires_grad_()
            logits = working_precision(model(start))
            # N times the objective of the step, whose gradient has the same sign
            value = F.cross_entropy(logits, y, reduction="sum")
            if self._guided and self._lambda > 0:
                with torch.no_grad():
                    clean = working_precision(run_clean(model, x))
                value = value + self._lambda * nuclear_norm(logits - clean)
            return (fgsm_step(start, input_gradient(value, start), x, eps),)

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the clean loss and the norm."""
        logits_adv = model(crafted[0])
        logits = run_clean(model, x)
        difference = working_precision(logits_adv) - working_precision(logits)
        loss = F.cross_entropy(logits, y) + self._lambda * nuclear_norm(difference) / len(x)
        return ObjectiveOutput(loss, logits, logits_adv)

    @property
    def _lambda(self) -> float:
        return to_float(self.weight, "weight") * self._progress
