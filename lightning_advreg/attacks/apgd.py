"""APGD: gradient ascent that finds its own step sizes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_advreg.attacks.apgd_l1 import SparseAscent
from lightning_advreg.attacks.base import BoundedAttack
from lightning_advreg.attacks.long import LongAttack
from lightning_advreg.attacks.losses import check_loss
from lightning_advreg.attacks.model_state import Model
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.step_size import Ascent, MomentumAscent
from lightning_advreg.attacks.survivors import Survivors
from lightning_advreg.attacks.threat import Ball, ball, spread
from lightning_advreg.values import to_float


@dataclass(frozen=True, kw_only=True)
class APGD(LongAttack, BoundedAttack):
    """Auto-PGD: no step size to choose (Croce & Hein 2020, algorithm 1; for L1 Croce & Hein 2021, "Mind the box").

    A run starts at a random point of the ball. For Linf and L2 it takes steps with momentum: with the projection ``P``,
    the steepest direction ``d`` and ``a = 0.75`` (1 in the first step)::

        z_{k+1} = P(x_k + step_size * d(grad loss(x_k)))
        x_{k+1} = P(x_k + a (z_{k+1} - x_k) + (1 - a) (x_k - x_{k-1}))

    Each image has a step size of its own, ``2 eps`` at first. At checkpoints, which come closer and closer (after 22,
    41, 57, 70, 80, 87, 93 and 99 of 100 steps), it is halved where fewer than ``rho`` of the steps since the last one
    increased the loss, or where neither it nor the best loss changed; the image goes back to its best point then. For
    L1 the steps are sparse, and sparsity and step size adapt together, see :class:`SparseAscent`.

    With ``larger_eps`` a run has three phases, in balls of ``3 eps``, ``2 eps`` and ``eps``, with 30, 30 and 40 % of
    the steps; each begins at the best point of the one before, projected. The points of the first two do not count.

    The multi-targeted attack APGD-T (``targets`` > 0) makes one run towards each of the likeliest wrong classes of the
    clean image, with the targeted form of the loss, and ends at any wrong class.

    A run costs ``steps`` forward and input-backward passes, and one more for the start of each phase. Images that are
    misclassified leave at once: restarts and further targets attack the others. The result is the misclassified image,
    or the one with the highest loss of all runs where none was found.

    Args:
        norm: The norm that bounds the perturbation: ``linf``, ``l2`` or ``l1``.
        eps: The budget in pixel units on [0, 1]; ``8/255`` may be written as text.
        steps: The number of steps of a run, at least 1.
        restarts: The number of runs (towards each target), at least 1.
        loss: What is maximised: ``ce``, ``margin``, ``dlr`` (3 classes or more; 4 with targets) or ``kl``.
        targets: Run towards this many wrong classes, at most one less than there are classes; 0 for the plain loss.
        rho: Halve the step size below this share of increasing steps, in [0, 1]. Not used for L1.
        draws: Passes to average over at every point, for models that draw random numbers (expectation over
            transformation, Athalye et al. 2018). An image counts as misclassified where its mean logits are.
        larger_eps: Come down from balls three times as large; None does so for L1 alone, as published.
        stop_at_success: Leave an image alone as soon as the model gets it wrong. Training wants False: every image
            keeps climbing, and the result is the highest loss.
        targeted: Treat labels as classes to reach.
        model_mode: How the network runs during the attack.
        seed: Seed of the random starts; None draws from the default generators.
        check: Check pixel range and labels.
        batch_size: Images attacked at once; None chooses what fits the memory.
        progress: Show a bar with images left and accuracy so far.
        checkpoint: A folder where progress is saved, and from which the same call continues.
        acceleration: How the network is made fast for the search; successes are confirmed on the network itself.

    Raises:
        ValueError: If an argument is out of its range, or there are more targets than wrong classes.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5))
        >>> x = torch.rand(8, 1, 4, 4)
        >>> y = model(x).argmax(1)
        >>> x_adv = APGD(eps=0.2, steps=20)(model, x, y)
        >>> bool((x_adv - x).abs().max() <= 0.2 + 1e-6), bool((model(x_adv).argmax(1) != y).any())
        (True, True)
    """

    steps: int = 100
    restarts: int = 1
    targets: int = 0
    rho: float = 0.75
    draws: int = 1
    larger_eps: bool | None = None
    stop_at_success: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("steps", "restarts", "draws")
        object.__setattr__(self, "rho", to_float(self.rho, "rho", minimum=0, maximum=1))
        if isinstance(self.targets, bool) or not isinstance(self.targets, int) or self.targets < 0:
            raise ValueError(f"targets must be an integer of at least 0, got {self.targets!r}.")
        if self.targets and self.targeted:
            raise ValueError(
                "targets are wrong classes of its own choice, which targeted=True leaves no room for; set targets=0 or "
                "targeted=False."
            )
        if self.targets:
            check_loss(self.loss, targeted=True)

    def perturb(self, objective: InnerObjective, feasible: Ball, factor: Tensor | None) -> Tensor:
        """Make all runs."""
        if self.targets:
            _check_targets(self.targets, objective.clean_logits.shape[1])
        survivors = Survivors(objective, feasible)
        best, best_loss = feasible.x.clone(), feasible.x.new_full((len(objective),), -torch.inf)
        for run in range(self.restarts * max(self.targets, 1)):
            aimed = survivors.objective
            if self.targets:
                aimed = aimed.towards(_likely_wrong_class(aimed, run // self.restarts))
            ascent = self._run(aimed, survivors)
            if len(survivors) == 0:
                break
            rows = survivors.rows
            better = ascent.best_loss > best_loss[rows]
            best_loss[rows] = torch.where(better, ascent.best_loss.to(best_loss.dtype), best_loss[rows])
            best[rows] = torch.where(spread(better, best), ascent.best, best[rows])
            if self.stop_at_success:
                survivors.settle(best[rows])
                if len(survivors) == 0:
                    break
        return survivors.result if self.stop_at_success else best

    def _objective(self, model: Model, x: Tensor, y: Tensor) -> InnerObjective:
        return InnerObjective(model, x, y, loss=self.loss, targeted=self.targeted, check=self.check, draws=self.draws)

    def _run(self, objective: InnerObjective, survivors: Survivors) -> Ascent:
        *wider, last = self._phases()
        x, eps = survivors.feasible.x, survivors.feasible.eps.flatten()
        x_adv: Tensor | None = None
        for scale, steps in wider:
            x_adv = self._climb(objective, ball(self.norm, x, scale * eps), x_adv, steps).best
        return self._climb(objective, survivors.feasible, x_adv, last[1], survivors)

    def _phases(self) -> list[tuple[float, int]]:
        larger_eps = self.norm == "l1" if self.larger_eps is None else self.larger_eps
        wide = 3 * self.steps // 10 if larger_eps else 0
        return [(scale, wide) for scale in (3.0, 2.0) if wide] + [(1.0, self.steps - 2 * wide)]

    def _climb(
        self,
        objective: InnerObjective,
        feasible: Ball,
        x_adv: Tensor | None,
        steps: int,
        survivors: Survivors | None = None,
    ) -> Ascent:
        fresh = x_adv is None
        x_adv = feasible.random_start() if x_adv is None else feasible.project(x_adv)
        loss, hit, grad = objective.loss_and_gradient(x_adv)
        if self.norm == "l1":
            ascent: Ascent = SparseAscent(feasible, x_adv, loss, grad, fresh=fresh)
        else:
            ascent = MomentumAscent(feasible, x_adv, loss, grad, to_float(self.rho, "rho"))
        marks = ascent.checkpoints(steps)
        windows = {mark: mark - last for last, mark in zip([0, *marks], marks, strict=False)}
        for step in range(steps + 1):
            if step > 0:
                x_adv = ascent.advance(feasible)
                loss, hit, grad = objective.loss_and_gradient(x_adv)
                ascent.observe(x_adv, loss, grad)
            if step in windows:
                ascent.adapt(feasible, windows[step])
            if survivors is None or not self.stop_at_success:
                continue
            kept = survivors.retire(x_adv, hit)
            if len(survivors) == 0:
                break
            if kept is not None:
                objective, feasible = objective.select(kept), survivors.feasible
                ascent.select(kept)
        return ascent


def _likely_wrong_class(objective: InnerObjective, rank: int) -> Tensor:
    """Give the wrong class with the highest logit at the clean image (rank 0), the second highest (1), and so on."""
    wrong = objective.clean_logits.scatter(1, objective.y.unsqueeze(1), -torch.inf)
    # stable, so that classes with equal logits keep their order from one rank to the next
    return wrong.argsort(dim=1, descending=True, stable=True)[:, rank]


def _check_targets(targets: int, num_classes: int) -> None:
    if targets > num_classes - 1:
        raise ValueError(
            f"targets={targets} asks for more wrong classes than there are: the network gives {num_classes} classes; "
            f"use targets={num_classes - 1} or fewer."
        )
