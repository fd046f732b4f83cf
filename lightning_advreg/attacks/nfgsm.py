"""FGSM from strong noise, without a projection: an attack to train with."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks.base import BoundedAttack
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.threat import Ball
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class NFGSM(BoundedAttack):
    """N-FGSM, one step from strong noise (de Jorge et al. 2022, algorithm 1), against catastrophic overfitting.

    ``x_adv = clip(x' + step_size * sign(grad loss(x')))`` with ``x' = clip(x + eta)``, ``eta ~ U(-noise * eps, noise *
    eps)``, where ``clip`` means the box [0, 1]. There is no projection onto the ball, which would bring catastrophic
    overfitting back. The algorithm as printed knows no box; the authors' code clips in both places, as this does, so
    that the model is asked about images alone.

    The result may be ``noise * eps + step_size`` away from the image, three times eps by default. **Train with it; do
    not evaluate with it.**

    Args:
        norm: ``linf``, the only norm in which the attack is defined.
        eps: The budget in pixel units on [0, 1], the unit of noise and step.
        noise: The largest noise as a multiple of eps, at least 0.
        step_size: The length of the step in pixel units; None means eps.
        loss: What is maximised: ``ce``, ``margin``, ``dlr`` or ``kl``.
        targeted: Treat labels as classes to reach.
        model_mode: How the network runs during the attack; the authors use ``train``.
        seed: Seed of the noise; None draws from the default generators.
        check: Check pixel range and labels at each call.

    Attributes:
        keeps_budget: False, which tells an evaluation that results may lie outside the ball.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> model = torch.nn.Flatten()  # the logits are the pixels
        >>> x = torch.tensor([[[[0.5, 0.5]]]])
        >>> moved = (NFGSM(eps=0.1)(model, x, torch.tensor([0])) - x).flatten()
        >>> bool(moved[0] <= 0.1), bool(moved[1] >= -0.1), bool(moved.abs().max() <= 0.3 + 1e-6)
        (True, True, True)
    """

    keeps_budget: ClassVar[bool] = False

    noise: Number = 2.0
    step_size: Number | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != "linf":
            raise ValueError(
                f"norm must be 'linf', in which N-FGSM is defined, got {self.norm!r}; use FGSM(norm={self.norm!r}, "
                "random_start=True)."
            )
        self._normalise("noise")
        if self.step_size is not None:
            self._normalise("step_size")
        if self.loss == "kl" and self.noise == 0:
            raise ValueError("loss 'kl' has a zero gradient at the clean image; set noise above 0.")

    def scaled(self, factor: float) -> Self:
        """Give the same attack with eps, and so the noise, and step_size multiplied by ``factor`` >= 0."""
        step_size = None if self.step_size is None else to_float(self.step_size, "step_size") * factor
        return dataclasses.replace(self, eps=self._scaled_eps(self.radius, factor), step_size=step_size)

    def perturb(self, objective: InnerObjective, feasible: Ball, factor: Tensor | None) -> Tensor:
        """Draw noise, and take the one step from there."""
        x, eps = feasible.x, feasible.eps
        step_size: float | Tensor = eps if self.step_size is None else to_float(self.step_size, "step_size")
        if self.step_size is not None and factor is not None:
            step_size = step_size * factor
        eta = to_float(self.noise, "noise") * eps * (2 * torch.rand_like(x) - 1)
        start = (x + eta).clamp(0, 1)
        return (start + step_size * objective.gradient(start).sign()).clamp(0, 1)
