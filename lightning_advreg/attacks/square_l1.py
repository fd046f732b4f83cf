"""Random search over squares in the L1 ball."""

import torch
from torch import Tensor

from lightning_advreg.attacks.square_l2 import L2SquareSearch
from lightning_advreg.attacks.threat import Ball, spread


class L1SquareSearch(L2SquareSearch):
    """Move budget between two windows of each image, measured by absolute values (Croce & Hein 2021, "Mind the box").

    Each channel of the first window gets the budget that all channels of both windows had, and the image is projected
    back onto the intersection of ball and box. The projection takes the same from every changed pixel, so small changes
    vanish and the perturbation becomes sparse, as it has to be in this ball.

    Args:
        feasible: The ball.
    """

    power = 1

    def __init__(self, feasible: Ball) -> None:
        super().__init__(feasible)
        self._best = self.x_adv

    def propose(self, share: float) -> None:
        """Give each image's first window new bumps, and set its second back."""
        self._windows(share)
        self._best, clean = self.x_adv, self.feasible.x.flatten(1)
        count, channels = len(clean), self.grid.channels
        change = self._best.flatten(1) - clean
        self._used = self._sizes(change)
        first, second = self._places(), self._places()
        here, there = (change.gather(1, places).view(count, channels, -1) for places in (first, second))
        change.scatter_(1, second, torch.zeros_like(here).flatten(1))
        alone = change.gather(1, first).view(count, channels, -1)
        freed = (self._sizes(there) + self._sizes(alone)).sum(1, keepdim=True).expand(-1, channels)
        change.scatter_(1, first, self._redrawn(here, freed).flatten(1))
        self.x_adv = self.feasible.project((clean + change).view_as(self._best))

    def keep(self, better: Tensor) -> None:
        """Take the other images back."""
        self.x_adv = torch.where(spread(better, self._best), self.x_adv, self._best)
