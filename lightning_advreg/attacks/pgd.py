"""Projected gradient descent."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks.base import BoundedAttack
from lightning_advreg.attacks.losses import check_start
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.survivors import Survivors, keep_rows
from lightning_advreg.attacks.threat import Ball, spread
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class PGD(BoundedAttack):
    """Projected gradient descent (Madry et al. 2018, section 2.1).

    From a random start in the ball, each step goes ``step_size`` in the steepest direction of the norm and is projected
    back: ``x_{t+1} = P(x_t + step_size * d(grad loss(x_t)))``, with ``d`` the sign for Linf, the normalised gradient
    for L2, and the largest 1 % of entries for L1. One attempt costs ``steps`` forward and input-backward passes. With
    several restarts, one more forward pass after each tells which images go on: those that no attempt has beaten.
    They keep the attempt with the highest loss.

    Args:
        norm: The norm that bounds the perturbation: ``linf``, ``l2`` or ``l1``.
        eps: The budget in pixel units on [0, 1].
        step_size: The length of a step in that norm, in pixel units.
        steps: The number of steps, at least 1.
        restarts: The number of attempts, at least 1.
        random_start: Begin at a random point of the ball; otherwise at the image itself.
        stop_at_success: Leave an image alone as soon as the model gets it wrong, which costs less and misses no success
            that the last step would have lost again. Training wants False, a high loss on every image.
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
    stop_at_success: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._normalise("step_size")
        self._check_counts("steps", "restarts")
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts without random_start would all be alike; set random_start=True or restarts=1.")
        check_start(self.loss, self.random_start)

    def scaled(self, factor: float) -> Self:
        """Give the same attack with eps and step_size multiplied by ``factor`` >= 0."""
        step_size = to_float(self.step_size, "step_size") * factor
        return dataclasses.replace(self, eps=self._scaled_eps(self.radius, factor), step_size=step_size)

    def perturb(self, objective: InnerObjective, feasible: Ball, factor: Tensor | None) -> Tensor:
        """Run all restarts."""
        if self.restarts == 1 and not self.stop_at_success:
            return self._attempt(objective, feasible, factor)
        survivors = Survivors(objective, feasible)
        best, best_loss = feasible.x.clone(), feasible.x.new_full((len(objective),), -torch.inf)
        leaving = survivors if self.stop_at_success else None
        for _ in range(self.restarts):
            begin = None if factor is None else factor[survivors.rows]
            x_adv = self._attempt(survivors.objective, survivors.feasible, begin, leaving)
            if len(survivors) == 0:
                break
            rows = survivors.rows
            if self.restarts == 1:
                best[rows] = x_adv
            else:
                loss, hit = survivors.objective.evaluate(x_adv)
                better = loss > best_loss[rows]
                best_loss[rows] = torch.where(better, loss.to(best_loss.dtype), best_loss[rows])
                best[rows] = torch.where(spread(better, x_adv), x_adv, best[rows])
                survivors.retire(x_adv, hit, now=True)
            if len(survivors) == 0:
                break
            survivors.settle(best[survivors.rows])
        return survivors.result

    def _attempt(
        self, objective: InnerObjective, feasible: Ball, factor: Tensor | None, survivors: Survivors | None = None
    ) -> Tensor:
        step_size: float | Tensor = to_float(self.step_size, "step_size")
        if factor is not None:
            step_size = step_size * factor
        x_adv = feasible.random_start() if self.random_start else feasible.x
        for _ in range(self.steps):
            if survivors is None:
                grad = objective.gradient(x_adv)
            else:
                _, hit, grad = objective.loss_and_gradient(x_adv)
                kept = survivors.retire(x_adv, hit)
                if len(survivors) == 0:
                    return x_adv[:0]
                objective, feasible = survivors.objective, survivors.feasible
                x_adv, grad = keep_rows(kept, x_adv), keep_rows(kept, grad)
                if isinstance(step_size, Tensor):
                    step_size = keep_rows(kept, step_size)
            x_adv = feasible.project(x_adv + step_size * feasible.steepest(grad, x_adv))
        return x_adv
