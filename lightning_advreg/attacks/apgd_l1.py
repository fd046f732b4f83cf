"""The ascent of APGD in the L1 norm, with steps that change few pixels."""

import torch
from torch import Tensor

from lightning_advreg.attacks.step_size import Ascent
from lightning_advreg.attacks.threat import Ball

_PERIOD = 0.04
_FIRST_SHARE = 0.2
_SPARSER = 1.5
_SHORTER = 1.5
_SHORTEST = 10
_FEWER = 0.95
_WALL = 1e-5


class SparseAscent(Ascent):
    """The ascent of APGD in the L1 norm (Croce & Hein 2021, "Mind the box", section 4).

    A step changes the ``k`` pixels with the largest gradients, all by the same amount, ``step_size`` in sum, and is
    projected exactly onto the intersection of ball and box. There is no momentum. At first ``k`` is a fifth of the
    pixels and the step size is eps. Every 4 % of the steps ``k`` becomes the number of pixels that the best point
    changes, divided by 1.5. Where this number fell by more than 5 %, the step size is eps again and the image returns
    to its best point; otherwise the step size is divided by 1.5, down to a tenth of eps.

    Pixels that reached the box cannot move. Where all the ``k`` are such, as few more as needed are taken, or the
    ascent would be stuck there; and the step size is shared by those that can move. The paper does not say so.

    Args:
        feasible: The balls around the images.
        x_adv: Feasible images to start at, of shape ``(N, ...)``.
        loss: Their losses, of shape ``(N,)``.
        grad: The gradients of the losses, like ``x_adv``.
        fresh: Whether the start is random, rather than found by an ascent, which tells ``k`` from the beginning.
    """

    def __init__(self, feasible: Ball, x_adv: Tensor, loss: Tensor, grad: Tensor, *, fresh: bool) -> None:
        super().__init__(x_adv, loss, grad)
        pixels = x_adv[0].numel()
        self.step_size = feasible.eps
        if fresh:
            self.changed = torch.full_like(loss, pixels)
            self.count = self._at_least_one(_FIRST_SHARE * self.changed)
        else:
            self.changed = self._changed(feasible)
            self.count = self._at_least_one(self.changed / _SPARSER)

    @staticmethod
    def checkpoints(steps: int) -> list[int]:
        """Give the steps after which to call :meth:`adapt`."""
        period = max(int(_PERIOD * steps), 1)
        return list(range(period, steps + 1, period))

    def advance(self, feasible: Ball) -> Tensor:
        """Step along the largest gradients, and project."""
        size, x_adv = self.grad.abs().flatten(1), self.x_adv.flatten(1)
        movable = torch.where(self.grad.flatten(1) > 0, 1 - x_adv, x_adv) > _WALL
        least = size.sort(dim=1, descending=True).values.gather(1, (self.count - 1).unsqueeze(1))
        least = torch.minimum(least, (size * movable).amax(1, keepdim=True))
        # pixels at the wall are pushed along: the projection would draw them away from it
        pushed = (size >= least) & (size > 0)
        moving = (pushed & movable).sum(1, keepdim=True).clamp(min=1)
        direction = self.grad.sign() * (pushed / moving).view_as(self.grad)
        return feasible.project(self.x_adv + self.step_size * direction)

    def adapt(self, feasible: Ball, window: int) -> None:
        """Set sparsity and step sizes by what the best points change."""
        changed = self._changed(feasible)
        sparser = changed < _FEWER * self.changed
        self.changed, self.count = changed, self._at_least_one(changed / _SPARSER)
        shorter = torch.maximum(self.step_size / _SHORTER, feasible.eps / _SHORTEST)
        self.step_size = self._where(sparser, feasible.eps, shorter)
        self._return_to_best(sparser)

    def _changed(self, feasible: Ball) -> Tensor:
        return (self.best != feasible.x).flatten(1).sum(1).to(self.loss.dtype)

    def _at_least_one(self, count: Tensor) -> Tensor:
        # rounded down: two pixels that are always pushed together would never trade places
        return count.floor().clamp(min=1).to(torch.int64)
