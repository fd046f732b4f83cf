"""Fast adaptive boundary attack: the nearest image that the network gets wrong."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_advreg.attacks.base import MinimalAttack
from lightning_advreg.attacks.hyperplane import nearest_boundary, norm_of, onto_hyperplane, rounding, wrong_classes
from lightning_advreg.attacks.long import LongAttack
from lightning_advreg.attacks.model_state import Model
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.survivors import Survivors, keep_rows
from lightning_advreg.attacks.threat import Ball, ball, spread
from lightning_advreg.values import Number, to_float

_SEARCH_STEPS = 3
_BEHIND = 1e-4
_FURTHER = (1.02, 1.05, 1.1, 1.2, 1.5)


@dataclass(frozen=True, kw_only=True)
class FAB(LongAttack, MinimalAttack):
    """Fast adaptive boundary attack (Croce & Hein 2020, "Minimally distorted adversarial examples with a fast ...").

    Each step linearises the nearest decision boundary at the current point, projects both the point ``x_i`` and the
    image ``x`` onto it within the box (moves ``d_i`` and ``d``), and mixes the two, so that the search follows the
    boundary towards the image (algorithm 1)::

        alpha   = min(||d_i|| / (||d_i|| + ||d||), alpha_max)
        x_{i+1} = clip((1 - alpha) (x_i + eta d_i) + alpha (x + eta d))
        x_{i+1} = x + beta (x_{i+1} - x)                                 if x_{i+1} is misclassified

    The nearest misclassified point is kept. At the end of a run a search of 3 steps between it and the image, by
    linear interpolation of the margin, takes back the overshoot.

    The pass that finds a point misclassified also gives the boundary for the next step, linearised there, right behind
    the boundary, rather than anew at the point after the step back. So a step costs one forward pass, and one backward
    pass per wrong class (``targets=0``) or a single one (FAB-T and ``targeted``). A run ends with 4 more forward
    passes.

    Args:
        norm: The norm in which the perturbation is to be small: ``linf``, ``l2`` or ``l1``.
        eps: Give up images that need a larger perturbation than this, in pixel units: they come back clean. None
            accepts any.
        steps: Steps of a run, at least 1.
        restarts: Runs, at least 1. The first starts at the image, others at a random point half as far away as the
            nearest success so far, or as eps if that is less.
        targets: With 0, each step goes to the boundary that looks nearest, of all classes. With n, FAB-T: n runs, each
            towards the boundary with one of the n wrong classes that are most likely for the clean image.
        alpha_max: The largest weight of the image in a step, in [0, 1].
        eta: How far to go beyond the boundary, as a multiple of the way, at least 1.
        beta: What the step back leaves of the distance, in (0, 1).
        stop_within_eps: Leave an image alone as soon as a success within eps is found, which costs less and measures
            the same accuracy. With False, go on to find the nearest. Without effect if eps is None.
        targeted: Treat labels as classes to reach; the boundary is then that to the most likely other class.
        model_mode: How the network runs during the attack.
        seed: Seed of the random starts; None draws from the default generators.
        check: Check pixel range and labels at each call.
        batch_size: Images attacked at once; None chooses what fits the memory.
        progress: Show a bar with images left and accuracy so far.
        checkpoint: A folder where progress is saved after every batch.
        acceleration: How the network is made fast; None searches on the network itself.

    Raises:
        ValueError: If an argument is out of its range, or there are fewer wrong classes than ``targets``.

    Example:
        >>> model = torch.nn.Flatten()  # the nearest boundary: both pixels alike
        >>> x = torch.tensor([[[[0.6, 0.4]]]])
        >>> FAB(norm="linf", steps=5)(model, x, torch.tensor([0])).flatten()
        tensor([0.5000, 0.5000])
    """

    steps: int = 100
    restarts: int = 1
    targets: int = 0
    alpha_max: Number = 0.1
    eta: Number = 1.05
    beta: Number = 0.9
    stop_within_eps: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("steps", "restarts")
        for name in ("alpha_max", "eta", "beta"):
            self._normalise(name)
        alpha_max, eta, beta = self._constants
        if alpha_max > 1:
            raise ValueError(f"alpha_max must lie in [0, 1], got {alpha_max:g}.")
        if eta < 1:
            raise ValueError(f"eta must be at least 1, to reach the boundary, got {eta:g}.")
        if not 0 < beta < 1:
            raise ValueError(f"beta must lie between 0 and 1, got {beta:g}.")
        if isinstance(self.targets, bool) or not isinstance(self.targets, int) or self.targets < 0:
            raise ValueError(f"targets must be an integer of at least 0, got {self.targets!r}.")
        if self.targeted and self.targets:
            raise ValueError("targeted gives each image one class to reach, its label; set targets=0.")

    def minimise(self, objective: InnerObjective, x: Tensor, within: Tensor | None) -> Tensor:
        """Run from the image and from random points; the nearest success of all runs counts."""
        reach = x.new_full((len(x),), torch.inf) if within is None else within
        # no distance is below -1, so that no image leaves
        stop = reach if within is not None and self.stop_within_eps else torch.full_like(reach, -1.0)
        runs = self._runs(objective)
        best, distance = x.clone(), torch.full_like(reach, torch.inf)
        survivors = Survivors(objective, ball(self.norm, x, stop.clamp(min=0)))
        for restart in range(self.restarts):
            for rivals in runs:
                rows, start = survivors.rows, survivors.feasible.x
                if restart:
                    start = self._random_start(start, torch.minimum(distance, reach)[rows] / 2)
                found, length = self._run(survivors, start, rivals[rows], stop[rows])
                if len(survivors) == 0:
                    return survivors.result
                rows = survivors.rows
                nearer = length < distance[rows]
                best[rows] = torch.where(spread(nearer, found), found, best[rows])
                distance[rows] = torch.where(nearer, length, distance[rows])
        survivors.settle(best[survivors.rows])
        return survivors.result

    def _run(self, survivors: Survivors, x_adv: Tensor, rivals: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        """Give the nearest success for each image left at the end, and its distance, inf where there is none."""
        nearest, distance = survivors.feasible.x, torch.full_like(stop, torch.inf)
        margin = torch.zeros_like(stop)
        for step in range(self.steps + 1):
            objective, feasible = survivors.objective, survivors.feasible
            # what comes back is in the dtype of the images
            x_adv = x_adv.to(objective.x.dtype).to(x_adv.dtype)
            if step < self.steps:
                gap, normal, logits = nearest_boundary(self.norm, objective, x_adv, rivals)
            else:
                with torch.no_grad():
                    logits = objective.logits(x_adv)
            hit, value = _classify(objective, logits)
            length = feasible.distance(x_adv)
            nearer = hit & (length < distance)
            nearest, distance = (
                torch.where(spread(nearer, x_adv), x_adv, nearest),
                torch.where(nearer, length, distance),
            )
            margin = torch.where(nearer, value.to(margin.dtype), margin)
            kept = survivors.retire(x_adv, hit & (length <= stop), now=step == self.steps)
            nearest, distance, margin = (keep_rows(kept, part) for part in (nearest, distance, margin))
            stop, rivals = keep_rows(kept, stop), keep_rows(kept, rivals)
            if len(survivors) == 0:
                return nearest, distance
            if step < self.steps:
                state = (keep_rows(kept, part) for part in (x_adv, gap, normal, hit))
                x_adv = self._step(survivors.feasible.x, *state)
        nearest, distance = self._closest(survivors.objective, survivors.feasible, nearest, distance, margin)
        kept = survivors.retire(nearest, distance <= stop, now=True)
        return keep_rows(kept, nearest), keep_rows(kept, distance)

    def _step(self, x: Tensor, x_adv: Tensor, gap: Tensor, normal: Tensor, hit: Tensor) -> Tensor:
        alpha_max, eta, beta = self._constants
        back = torch.where(spread(hit, x), x + beta * (x_adv - x), x_adv)
        points, normals = torch.cat([back, x]), torch.cat([normal, normal])
        rise = -(gap.repeat(2) + (normals * (points - x_adv.repeat(2, *[1] * (x.dim() - 1)))).flatten(1).sum(1))
        moves = onto_hyperplane(self.norm, points, normals, rise.to(x.dtype))
        here, home = norm_of(self.norm, moves).chunk(2)
        alpha = spread((here / (here + home).clamp(min=1e-12)).clamp(max=alpha_max), x)
        to_here, to_home = (points + eta * moves).chunk(2)
        return ((1 - alpha) * to_here + alpha * to_home).clamp(0, 1)

    def _closest(
        self, objective: InnerObjective, feasible: Ball, nearest: Tensor, distance: Tensor, margin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Move successes back towards their images, as far as the network stays wrong."""
        inside, outside = feasible.x, nearest
        # counted from where rounding no longer decides
        slack = 2 * rounding(objective.clean_logits).to(margin.dtype)
        margin, margin_inside = margin - slack, objective.loss(objective.clean_logits).to(margin.dtype) - slack
        for _ in range(_SEARCH_STEPS):
            # a little behind the boundary
            share = (margin / (margin - margin_inside).clamp(min=1e-12) - _BEHIND).clamp(0, 1)
            middle = (outside + spread(share, outside) * (inside - outside)).to(objective.x.dtype).to(outside.dtype)
            with torch.no_grad():
                hit, value = _classify(objective, objective.logits(middle))
            value = value.to(margin.dtype) - slack
            outside, inside = (
                torch.where(spread(hit, middle), *pair) for pair in ((middle, outside), (inside, middle))
            )
            margin, margin_inside = (torch.where(hit, *pair) for pair in ((value, margin), (margin_inside, value)))
        # a fast copy of the network may disagree with the original about points this close to the boundary
        missing, result = distance < torch.inf, feasible.x
        change, dtype = nearest - feasible.x, nearest.dtype
        further = ((feasible.x + f * change).clamp(0, 1).to(objective.x.dtype).to(dtype) for f in _FURTHER)
        for candidate in (outside, nearest, *further):
            confirmed = objective.confirmed(candidate, missing)
            result = torch.where(spread(confirmed, result), candidate, result)
            missing = missing & ~confirmed
        length = feasible.distance(result)
        return result, torch.where((distance < torch.inf) & ~missing, length, torch.inf)

    def _random_start(self, x: Tensor, radius: Tensor) -> Tensor:
        known = radius < torch.inf
        near = ball(self.norm, x, torch.where(known, radius, 0.0))
        change = near.random_start() - x
        size = spread(norm_of(self.norm, change).clamp(min=1e-12), x)
        start = (x + change * near.eps / size).clamp(0, 1)
        # nothing says how far to go: half of the way to a random image
        return torch.where(spread(known, x), start, (x + torch.rand_like(x)) / 2)

    def _runs(self, objective: InnerObjective) -> list[Tensor]:
        logits = objective.clean_logits
        # refuses networks of a single class
        objective.loss(logits)
        wrong = logits.shape[1] - 1
        if self.targets > wrong:
            raise ValueError(
                f"targets must be at most {wrong}, the number of wrong classes of this network, got {self.targets}."
            )
        classes = wrong_classes(logits, objective.y, self.targets or wrong)
        return list(classes.split(1, dim=1)) if self.targets else [classes]

    @property
    def _constants(self) -> tuple[float, float, float]:
        return to_float(self.alpha_max, "alpha_max"), to_float(self.eta, "eta"), to_float(self.beta, "beta")

    def _objective(self, model: Model, x: Tensor, y: Tensor) -> InnerObjective:
        return InnerObjective(model, x, y, loss="margin", targeted=self.targeted, check=self.check)


def _classify(objective: InnerObjective, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Tell which logits reach the goal by more than rounding, and their margins."""
    margin = objective.loss(logits)
    return objective.hits(logits) & (margin > rounding(logits)), margin
