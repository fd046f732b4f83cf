"""Random search over squares in the L2 ball, where a budget moves from window to window."""

import torch
from torch import Tensor

from lightning_advreg.attacks.square_windows import SquareSearch
from lightning_advreg.attacks.survivors import keep_rows
from lightning_advreg.attacks.threat import Ball

_TINY = 1e-12
_ROUNDING = 1e-6
_QUERIES_BETWEEN = 50


class L2SquareSearch(SquareSearch):
    """Move budget between two windows of each image (Andriushchenko et al. 2020, algorithm 3).

    With ``v`` the perturbation so far, each channel of a window W1 gets the direction of ``r eta + v_W1 / |v_W1|``,
    with a random sign r, and the length ``sqrt(|v_{W1 or W2}|^2 + (eps^2 - |v|^2) / C)``; a second window W2 is set
    back to the image. Here ``eta`` is a pair of bumps of opposite sign, side by side or one below the other, of norm 1.
    What clipping to the box leaves unused is spent by later queries. The search begins with a grid of such pairs, 5 by
    5 in a square image.

    Args:
        feasible: The ball.
    """

    smallest = 3
    power = 2

    def __init__(self, feasible: Ball) -> None:
        super().__init__(feasible)
        self._budget = self._radius.flatten() ** self.power
        self._used = self._spent()
        self._age = 0

    def propose(self, share: float) -> None:
        """Move each image's budget from the second of two windows to the first, with new bumps."""
        self._windows(share)
        count, channels = len(self.x_adv), self.grid.channels
        self._age += 1
        if self._age % _QUERIES_BETWEEN == 0:
            # the running sum rounds at every query
            self._used = self._spent()
        first, second = self._places(), self._places()
        pixels, clean = self.x_adv.view(count, -1), self.feasible.x.flatten(1)
        places = torch.cat([first, second], 1)
        old, centre = pixels.gather(1, places), clean.gather(1, places)
        here, there = (old - centre).view(count, 2, channels, -1).unbind(1)
        middle, elsewhere = centre.chunk(2, 1)
        pixels.scatter_(1, second, elsewhere)
        alone = (pixels.gather(1, first) - middle).view(count, channels, -1)
        freed = self._sizes(there) + self._sizes(alone)
        change = self._redrawn(here, freed)
        pixels.scatter_(1, first, (middle + change.flatten(1)).clamp(0, 1))
        new = pixels.gather(1, places)
        gained = self._sizes((new[:, : first.shape[1]] - middle).view(count, channels, -1))
        self._changed = places, old, new, self._used + (gained - freed).sum(1)

    def keep(self, better: Tensor) -> None:
        """Set the other windows back."""
        places, old, new, used = self._changed
        self.x_adv.view(len(better), -1).scatter_(1, places, torch.where(better.unsqueeze(1), new, old))
        self._used = torch.where(better, used, self._used)

    def select(self, rows: Tensor, feasible: Ball) -> None:
        """Go on with some of the images."""
        super().select(rows, feasible)
        self._budget, self._used = keep_rows(rows, self._budget), keep_rows(rows, self._used)

    def _start(self) -> Tensor:
        x, grid = self._planes(self.feasible.x), self.grid
        side = max(min(grid.height, grid.width) // 5, 1)
        rows, columns = grid.height // side, grid.width // side
        pair = _bump_pairs(side, side, x)[self._coins(len(x), 1, rows, columns).long()]
        tiles = pair * self._signs(len(x), grid.channels, rows, columns, 1, 1)
        tiles = tiles.transpose(3, 4).reshape(len(x), grid.channels, rows * side, columns * side)
        top, left = (grid.height - rows * side) // 2, (grid.width - columns * side) // 2
        start = torch.zeros_like(x)
        start[:, :, top : top + rows * side, left : left + columns * side] = tiles
        return (x + self._radius.view(-1, 1, 1, 1) * self._unit(start.flatten(1)).view_as(x)).clamp(0, 1)

    @property
    def _radius(self) -> Tensor:
        # pixels between 0.5 and 1 round by up to a quarter of the machine's epsilon, all in the same direction at worst
        x = self.feasible.x
        rounding = torch.finfo(x.dtype).eps / 4 * x[0].numel() ** (1 / self.power)
        return (self.feasible.eps * (1 - _ROUNDING) - rounding).clamp(min=0)

    def _resized(self, size: tuple[int, int]) -> None:
        super()._resized(size)
        self._pairs = self._unit(_bump_pairs(*size, self.x_adv).flatten(1))

    def _redrawn(self, here: Tensor, freed: Tensor) -> Tensor:
        """Give the new perturbation ``(N, C, h w)`` of a window, from the old one and the budget of each channel."""
        count, channels = here.shape[:2]
        bumps = self._pairs[self._coins(count, 1).long()] * self._signs(count, channels, 1)
        unused = (self._budget - self._used).unsqueeze(1)
        length = (freed + unused / channels).clamp(min=0) ** (1 / self.power)
        return self._unit(bumps + self._unit(here)) * length.unsqueeze(2)

    def _signs(self, *shape: int) -> Tensor:
        return 2 * self._coins(*shape).to(self.feasible.x.dtype) - 1

    def _spent(self) -> Tensor:
        return self._sizes((self.x_adv - self.feasible.x).flatten(1))

    def _sizes(self, change: Tensor) -> Tensor:
        return change.square().sum(-1) if self.power == 2 else change.abs().sum(-1)

    def _unit(self, change: Tensor) -> Tensor:
        return change / torch.linalg.vector_norm(change, self.power, dim=-1, keepdim=True).clamp(min=_TINY)


def _bump_pairs(height: int, width: int, like: Tensor) -> Tensor:
    """Give a bump beside its negative, and one above its negative, of shape ``(2, height, width)``."""
    half_width, half_height = width // 2, height // 2
    beside = torch.cat([_bump(height, half_width, like), -_bump(height, width - half_width, like)], 1)
    above = torch.cat([_bump(half_height, width, like), -_bump(height - half_height, width, like)], 0)
    return torch.stack([beside, above])


def _bump(height: int, width: int, like: Tensor) -> Tensor:
    """Give a pyramid that falls off from its centre: ``sum_{k=0}^{m} 1 / (n + 1 - k)^2`` at distance n - m from it.

    Distances are the larger of those along rows and columns, and n is that of the border (eq. 2 of the paper).
    """
    n = max(height, width) // 2
    rows, columns = ((torch.arange(side, device=like.device) - side // 2).abs() for side in (height, width))
    distance = torch.maximum(rows.unsqueeze(1), columns)
    heights = (1 / torch.arange(n + 1, 0, -1, device=like.device, dtype=like.dtype) ** 2).cumsum(0)
    return heights[n - distance]
