"""The fast gradient sign method, with and without a random start."""

import dataclasses
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks.base import BoundedAttack
from lightning_advreg.attacks.losses import check_start
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.threat import Ball
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class FGSM(BoundedAttack):
    """One step of the budget's length in the steepest direction (Goodfellow et al. 2015, section 4).

    With ``random_start`` this is FGSM-RS (Wong et al. 2020): start at ``U(-eps, eps)`` around the image, clipped to the
    box before the gradient is taken, then one step of 1.25 eps, projected back.

    Args:
        norm: The norm that bounds the perturbation; for ``l2`` and ``l1`` the step is the steepest one of that norm.
        eps: The budget in pixel units on [0, 1].
        step_size: The length of the step in pixel units; None means eps, or 1.25 eps with a random start.
        random_start: Begin at a random point of the ball.
        loss: What is maximised: ``ce``, ``margin``, ``dlr`` or ``kl`` (with a random start).
        targeted: Treat labels as classes to reach.
        model_mode: How the network runs during the attack.
        seed: Seed of the random start; None draws from the default generators.
        check: Check pixel range and labels at each call.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> model = torch.nn.Flatten()  # the logits are the pixels
        >>> x = torch.tensor([[[[0.5, 0.5]]]])
        >>> FGSM(eps=0.25)(model, x, torch.tensor([0]))
        tensor([[[[0.2500, 0.7500]]]])
    """

    step_size: Number | None = None
    random_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None:
            self._normalise("step_size")
        check_start(self.loss, self.random_start)

    def scaled(self, factor: float) -> Self:
        """Give the same attack with eps and step_size multiplied by ``factor`` >= 0."""
        step_size = None if self.step_size is None else to_float(self.step_size, "step_size") * factor
        return dataclasses.replace(self, eps=self._scaled_eps(self.radius, factor), step_size=step_size)

    def perturb(self, objective: InnerObjective, feasible: Ball, factor: Tensor | None) -> Tensor:
        """Take the one step."""
        step_size: float | Tensor
        if self.step_size is None:
            step_size = self.radius * (1.25 if self.random_start else 1.0)
        else:
            step_size = to_float(self.step_size, "step_size")
        if factor is not None:
            step_size = step_size * factor
        x_adv = feasible.random_start() if self.random_start else feasible.x
        return feasible.project(x_adv + step_size * feasible.steepest(objective.gradient(x_adv), x_adv))
