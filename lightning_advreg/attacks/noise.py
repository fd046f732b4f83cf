"""Random noise: what a model loses without anyone looking for its weaknesses."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_advreg.attacks.base import BoundedAttack
from lightning_advreg.attacks.long import LongAttack
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.survivors import Survivors, keep_rows
from lightning_advreg.attacks.threat import Ball, spread

Distribution: TypeAlias = Literal["uniform", "gaussian"]
"""What noise is drawn from."""

_P = {"l2": 2, "l1": 1}


@dataclass(frozen=True, kw_only=True)
class Noise(LongAttack, BoundedAttack):
    """Random points of the ball, a baseline: an attack that does no better has found nothing.

    ========  ===============================================  ================================================
    norm      ``uniform``                                      ``gaussian``
    ========  ===============================================  ================================================
    ``linf``  every pixel from U(-eps, eps)                    every pixel from N(0, (eps / 2)^2), clipped to eps
    ``l2``    a direction uniform on the sphere, of length eps  the same
    ``l1``    a point uniform on the L1 sphere of radius eps   a normal direction, of L1 length eps
    ========  ===============================================  ================================================

    Then pixels are clipped to the box. A try costs one forward pass on the images that none before it has fooled. An
    image keeps the first try that fools the model; failing that, the one with the highest loss.

    Args:
        norm: The norm that bounds the perturbation: ``linf``, ``l2`` or ``l1``.
        eps: The budget in pixel units on [0, 1].
        distribution: What noise is drawn from: ``uniform`` or ``gaussian``.
        tries: The number of draws, at least 1.
        loss: What tells the better of two tries that both fail.
        targeted: Treat labels as classes to reach.
        model_mode: How the network runs during the attack.
        seed: Of the random numbers; None draws from the default generators.
        check: Check pixel range and labels at each call.
        batch_size: Images attacked at once; None chooses what fits the memory.
        progress: Show a bar with images left and accuracy so far.
        checkpoint: A folder where progress is saved, and from which the same call continues.
        acceleration: How the network is made fast for the search; successes are confirmed on the network itself.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> model = torch.nn.Flatten()  # the logits are the pixels
        >>> x = torch.tensor([[[[0.5, 0.49]]]])
        >>> x_adv = Noise(eps=0.1, tries=20)(model, x, torch.tensor([0]))
        >>> model(x_adv).argmax(1).item()
        1
    """

    distribution: Distribution = "uniform"
    tries: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("tries")
        if self.distribution not in get_args(Distribution):
            raise ValueError(f"distribution must be uniform or gaussian, got {self.distribution!r}.")

    def perturb(self, objective: InnerObjective, feasible: Ball, factor: Tensor | None) -> Tensor:
        """Draw, and keep what is best."""
        survivors = Survivors(objective, feasible)
        best, best_loss = feasible.x, feasible.x.new_full((len(objective),), -torch.inf)
        for made in range(1, self.tries + 1):
            x_adv = self._draw(survivors.feasible)
            loss, hit = survivors.objective.evaluate(x_adv)
            # the first draw counts whatever its loss, which may be nan
            better = hit | (loss > best_loss) if made > 1 else torch.ones_like(hit)
            best = torch.where(spread(better, best), x_adv, best)
            best_loss = torch.where(better, loss, best_loss)
            kept = survivors.retire(best, hit, now=made == self.tries)
            best, best_loss = keep_rows(kept, best), keep_rows(kept, best_loss)
            if len(survivors) == 0:
                return survivors.result
        survivors.settle(best)
        return survivors.result

    def _draw(self, feasible: Ball) -> Tensor:
        x, eps = feasible.x, feasible.eps
        if self.norm == "linf":
            noise = torch.randn_like(x) / 2 if self.distribution == "gaussian" else 2 * torch.rand_like(x) - 1
            return feasible.project(x + eps * noise)
        noise = torch.randn_like(x)
        if self.norm == "l1" and self.distribution == "uniform":
            # signed exponential variables, divided by their sum, are uniform on the L1 sphere
            noise = torch.empty_like(x).exponential_() * noise.sign()
        length = torch.linalg.vector_norm(noise.flatten(1), _P[self.norm], dim=1)
        return feasible.project(x + eps * noise / spread(length, x))
