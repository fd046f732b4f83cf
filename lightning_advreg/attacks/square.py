"""Square attack: random search over square windows, without gradients."""

from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_advreg.attacks.base import BoundedAttack
from lightning_advreg.attacks.long import LongAttack
from lightning_advreg.attacks.losses import LossName
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.square_l1 import L1SquareSearch
from lightning_advreg.attacks.square_l2 import L2SquareSearch
from lightning_advreg.attacks.square_linf import LinfSquareSearch
from lightning_advreg.attacks.square_windows import SquareSearch
from lightning_advreg.attacks.survivors import Survivors
from lightning_advreg.attacks.threat import Ball, spread
from lightning_advreg.values import Number, to_float

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_CHANGES_OF_HALVINGS = 10_000


_SEARCHES: dict[str, type[SquareSearch]] = {"linf": LinfSquareSearch, "l2": L2SquareSearch, "l1": L1SquareSearch}


@dataclass(frozen=True, kw_only=True)
class Square(LongAttack, BoundedAttack):
    """Random search over square windows, without gradients (Andriushchenko et al. 2020, algorithm 1).

    From a random start, each query changes one window of the image and asks the network once. The change stays where
    the loss grows or the network is fooled. Windows cover a share p of the pixels, which is halved after 10, 50, 200,
    500, 1000, 2000, 4000, 6000 and 8000 changes. Each image has a window and signs of its own.

    ``linf``
        Starts from vertical stripes of ``x + eps`` and ``x - eps``; a query sets a window to one or the other, by
        channel. A window that would stay as it is has one channel flipped instead (algorithm 2).
    ``l2``
        Starts from a grid of bumps; a query takes the budget of two windows, and spends it on new bumps in the first
        (algorithm 3).
    ``l1``
        As ``l2`` with absolute values, and a projection onto ball and box after each query (Croce & Hein 2021).

    Args:
        norm: The norm that bounds the perturbation: ``linf``, ``l2`` or ``l1``.
        eps: The budget in pixel units on [0, 1].
        queries: Forward passes for an image that never falls, at least 1; those that fall cost no more.
        restarts: The number of searches, of ``queries`` each, on the images that none before has beaten.
        p_init: The share of the pixels that the first windows cover, in (0, 1].
        rescale: Stretch the schedule of p, made for 10,000 queries, to ``queries``.
        loss: What is maximised.
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
        >>> model = torch.nn.Flatten()  # the logits are the pixels
        >>> x = torch.tensor([[[[0.5, 0.3]]]])
        >>> Square(eps=0.2, queries=50)(model, x, torch.tensor([0]))
        tensor([[[[0.3000, 0.5000]]]])
    """

    loss: LossName = "margin"
    queries: int = 5000
    restarts: int = 1
    p_init: Number = 0.8
    rescale: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_counts("queries", "restarts")
        object.__setattr__(self, "p_init", to_float(self.p_init, "p_init", maximum=1))
        if to_float(self.p_init, "p_init") <= 0:
            raise ValueError(f"p_init must be above 0, got {self.p_init!r}.")

    def share(self, proposed: int) -> float:
        """Give the share of the pixels that the next window covers, after ``proposed`` changes of each image."""
        scale = _CHANGES_OF_HALVINGS / self.queries if self.rescale else 1
        return to_float(self.p_init, "p_init") / 2 ** bisect_right(_HALVINGS, proposed * scale)

    def perturb(self, objective: InnerObjective, feasible: Ball, factor: Tensor | None) -> Tensor:
        """Run all restarts."""
        survivors = Survivors(objective, feasible)
        best, best_loss = feasible.x, feasible.x.new_full((len(objective),), -torch.inf)
        for _ in range(self.restarts):
            search = _SEARCHES[self.norm](survivors.feasible)
            loss = torch.full_like(best_loss, -torch.inf)
            for made in range(self.queries):
                if made > 0:
                    search.propose(self.share(made - 1))
                value, hit = survivors.objective.evaluate(search.x_adv)
                better = hit | (value > loss)
                if made > 0:
                    search.keep(better)
                loss = torch.where(better, value, loss)
                kept = survivors.retire(search.x_adv, hit, now=made + 1 == self.queries)
                if kept is not None:
                    if len(survivors) == 0:
                        return survivors.result
                    search.select(kept, survivors.feasible)
                    loss, best, best_loss = loss[kept], best[kept], best_loss[kept]
            better = loss > best_loss
            best = torch.where(spread(better, best), search.x_adv, best)
            best_loss = torch.where(better, loss, best_loss)
        survivors.settle(best)
        return survivors.result
