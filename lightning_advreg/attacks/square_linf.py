"""Random search over squares in the Linf ball, where every pixel sits at an end of its range."""

import torch
from torch import Tensor

from lightning_advreg.attacks.square_windows import SquareSearch
from lightning_advreg.attacks.threat import Ball


class LinfSquareSearch(SquareSearch):
    """Set a window to ``x + eps`` or ``x - eps``, with one sign per channel (Andriushchenko et al. 2020, algorithm 2).

    The search begins with vertical stripes: one random sign per column and channel. Where the window would stay as it
    is, the sign of one channel is flipped, so that no query asks what is known.

    Args:
        feasible: The ball.
    """

    def __init__(self, feasible: Ball) -> None:
        self._lower = feasible.project(feasible.x - feasible.eps).flatten(1)
        self._upper = feasible.project(feasible.x + feasible.eps).flatten(1)
        super().__init__(feasible)

    def propose(self, share: float) -> None:
        """Set each image's window to new signs."""
        self._windows(share)
        places, count, channels = self._places(), len(self.x_adv), self.grid.channels
        pixels = self.x_adv.view(count, -1)
        low, high, old = (
            part.gather(1, places).view(count, channels, -1) for part in (self._lower, self._upper, pixels)
        )
        up = self._coins(count, channels, 1)
        same = (torch.where(up, high, low) == old).flatten(1).all(1)
        flipped = same.view(-1, 1, 1)
        if channels > 1:
            chosen = torch.randint(channels, (count, 1, 1), device=pixels.device)
            flipped = flipped & (chosen == torch.arange(channels, device=pixels.device).view(-1, 1))
        new = torch.where(up ^ flipped, high, low)
        self._changed = places, old.flatten(1), new.flatten(1)
        pixels.scatter_(1, places, new.flatten(1))

    def keep(self, better: Tensor) -> None:
        """Set the other windows back."""
        places, old, new = self._changed
        self.x_adv.view(len(better), -1).scatter_(1, places, torch.where(better.unsqueeze(1), new, old))

    def select(self, rows: Tensor, feasible: Ball) -> None:
        """Go on with some of the images."""
        super().select(rows, feasible)
        self._lower, self._upper = self._lower[rows], self._upper[rows]

    def _start(self) -> Tensor:
        up = self._coins(len(self._lower), self.grid.channels, 1, self.grid.width)
        return torch.where(up, self._planes(self._upper), self._planes(self._lower))
