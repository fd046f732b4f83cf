"""Projected gradient descent."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks.base import GradientAttack, InnerObjective
from lightning_advreg.attacks.losses import check_start
from lightning_advreg.attacks.threat import Ball
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """Projected gradient descent (Madry et al. 2018, section 2.1).

    From a random start in the ball, each step goes ``step_size`` in the steepest direction of the norm and is projected
    back: ``x_{t+1} = P(x_t + step_size * d(grad loss(x_t)))``, with ``d`` the sign for Linf, the normalised gradient
    for L2, and the largest 1 % of entries for L1. One restart costs ``steps`` forward and input-backward passes. With
    several restarts, one more forward pass each picks for every image the attempt that succeeds or, among equals,
    the one with the highest loss.

    Args:
        norm: The norm that bounds the perturbation: ``linf``, ``l2`` or ``l1``.
        eps: The budget in pixel units on [0, 1].
        step_size: The length of a step in that norm, in pixel units.
        steps: The number of steps, at least 1.
        restarts: The number of attempts, at least 1.
        random_start: Begin at a random point of the ball; otherwise at the image itself.
        loss: What is maximised: ``ce``, ``margin``, ``dlr`` (3 classes or more) or ``kl`` (as TRADES does).
        targeted: Treat labels as classes to reach.
        model_mode: How the network runs during the attack.
        seed: Seed of the random starts; None draws from the default generators.
        check: Check pixel range and labels at each call.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
        >>> x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
        >>> x_adv = PGD(eps="8/255", step_size="2/255", steps=10)(model, x, y)
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    step_size: Number = 2 / 255
    steps: int = 10
    restarts: int = 1
    random_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._normalise("step_size")
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts without random_start would all be alike; set random_start=True or restarts=1.")
        check_start(self.loss, self.random_start)

    def scaled(self, factor: float) -> Self:
        """Give the same attack with eps and step_size multiplied by ``factor`` >= 0."""
        step_size = to_float(self.step_size, "step_size") * factor
        return dataclasses.replace(self, eps=self.radius * factor, step_size=step_size)

    def perturb(self, objective: InnerObjective, feasible: Ball, factor: Tensor | None) -> Tensor:
        """Run all restarts."""
        best = self._attempt(objective, feasible, factor)
        if self.restarts == 1:
            return best
        best_loss, best_hit = objective.evaluate(best)
        for _ in range(self.restarts - 1):
            x_adv = self._attempt(objective, feasible, factor)
            loss, hit = objective.evaluate(x_adv)
            better = (hit & ~best_hit) | ((hit == best_hit) & (loss > best_loss))
            best = torch.where(better.view(-1, *[1] * (best.dim() - 1)), x_adv, best)
            best_loss, best_hit = torch.where(better, loss, best_loss), best_hit | hit
        return best

    def _attempt(self, objective: InnerObjective, feasible: Ball, factor: Tensor | None) -> Tensor:
        step_size: float | Tensor = to_float(self.step_size, "step_size")
        if factor is not None:
            step_size = step_size * factor
        x_adv = feasible.random_start() if self.random_start else feasible.x
        for _ in range(self.steps):
            grad = objective.gradient(x_adv)
            x_adv = feasible.project(x_adv + step_size * feasible.steepest(grad, x_adv))
        return x_adv
