"""Ascents that set their own step sizes: the inner part of APGD for the Linf and L2 norms."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_advreg.attacks.threat import Ball, spread

_WEIGHT = 0.75
_FIRST, _SHORTER, _SHORTEST = 22, 3, 6


def checkpoints(steps: int) -> list[int]:
    """Give the steps after which APGD looks back (Croce & Hein 2020, section 3.2).

    These are ``w_j = ceil(p_j * steps)`` with ``p_0 = 0``, ``p_1 = 0.22`` and ``p_{j+1} = p_j + max(p_j - p_{j-1} -
    0.03, 0.06)``.

    Args:
        steps: The number of steps of the whole ascent.

    Example:
        >>> checkpoints(100)
        [22, 41, 57, 70, 80, 87, 93, 99]
    """
    marks: list[int] = []
    # in whole percent, since sums of 0.22 and 0.19 would round up to one step more
    percent, length = _FIRST, _FIRST
    while percent <= 100:
        mark = -(-percent * steps // 100)
        if not marks or mark > marks[-1]:
            marks.append(mark)
        length = max(length - _SHORTER, _SHORTEST)
        percent += length
    return marks


class Ascent(ABC):
    """Where each image of a batch is, the best it has seen, and how far it steps next.

    No tensor is ever written in place, so that what is kept as the best does not change behind its back.

    Args:
        x_adv: Feasible images to start at, of shape ``(N, ...)``.
        loss: Their losses, of shape ``(N,)``.
        grad: The gradients of the losses, like ``x_adv``.

    Attributes:
        best: The image with the highest loss so far, like ``x_adv``.
        best_loss: That loss, of shape ``(N,)``.
    """

    def __init__(self, x_adv: Tensor, loss: Tensor, grad: Tensor) -> None:
        self.x_adv, self.loss, self.grad = x_adv, loss, grad
        self.best, self.best_loss, self.best_grad = x_adv, loss, grad

    @staticmethod
    @abstractmethod
    def checkpoints(steps: int) -> list[int]:
        """Give the steps after which to call :meth:`adapt`."""

    @abstractmethod
    def advance(self, feasible: Ball) -> Tensor:
        """Give the next images."""

    def observe(self, x_adv: Tensor, loss: Tensor, grad: Tensor) -> None:
        """Move to the next images, whose losses and gradients are known now."""
        better = loss > self.best_loss
        self.best = self._where(better, x_adv, self.best)
        self.best_grad = self._where(better, grad, self.best_grad)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.x_adv, self.loss, self.grad = x_adv, loss, grad

    @abstractmethod
    def adapt(self, feasible: Ball, window: int) -> None:
        """Set the step sizes anew, ``window`` steps after the last time."""

    def select(self, rows: Tensor) -> None:
        """Keep some of the images, by index."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        vars(self).update({name: value[rows] for name, value in tensors.items()})

    def _return_to_best(self, back: Tensor) -> None:
        self.x_adv = self._where(back, self.best, self.x_adv)
        self.grad = self._where(back, self.best_grad, self.grad)
        self.loss = torch.where(back, self.best_loss, self.loss)

    def _where(self, rows: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
        return torch.where(spread(rows, chosen), chosen, other)


class MomentumAscent(Ascent):
    """The ascent of APGD in the Linf and L2 norms (Croce & Hein 2020, algorithm 1).

    With ``P`` the projection, ``d`` the steepest direction and the weight ``a`` of 0.75 (1 in the first step)::

        z_{k+1} = P(x_k + step_size * d(grad loss(x_k)))
        x_{k+1} = P(x_k + a (z_{k+1} - x_k) + (1 - a) (x_k - x_{k-1}))

    The step size is ``2 eps`` at first. At a checkpoint it is halved for the images that go up too rarely, which are
    those where

    1. fewer than ``rho`` of the steps since the last checkpoint increased the loss, or
    2. neither the step size nor the best loss changed at or since the last checkpoint,

    and these images return to their best point and its gradient.

    Args:
        feasible: The balls around the images.
        x_adv: Feasible images to start at, of shape ``(N, ...)``.
        loss: Their losses, of shape ``(N,)``.
        grad: The gradients of the losses, like ``x_adv``.
        rho: The share of increasing steps below which the step size is halved, in [0, 1].
    """

    def __init__(self, feasible: Ball, x_adv: Tensor, loss: Tensor, grad: Tensor, rho: float) -> None:
        super().__init__(x_adv, loss, grad)
        self.rho, self.weight = rho, 1.0
        self.previous = x_adv
        self.step_size = 2 * feasible.eps
        self.increases = torch.zeros_like(loss)
        self.last_best_loss = loss
        # the first checkpoint has none before it, whose step size could be the same
        self.halved = torch.ones_like(loss, dtype=torch.bool)

    @staticmethod
    def checkpoints(steps: int) -> list[int]:
        """Give the steps after which to call :meth:`adapt`."""
        return checkpoints(steps)

    def advance(self, feasible: Ball) -> Tensor:
        """Step, project, and add what is left of the last step."""
        z = feasible.project(self.x_adv + self.step_size * feasible.steepest(self.grad, self.x_adv))
        moved = self.weight * (z - self.x_adv) + (1 - self.weight) * (self.x_adv - self.previous)
        self.weight = _WEIGHT
        return feasible.project(self.x_adv + moved)

    def observe(self, x_adv: Tensor, loss: Tensor, grad: Tensor) -> None:
        """Move to the next images, and count whether their losses are higher than those of the last."""
        self.increases = self.increases + (loss > self.loss)
        self.previous = self.x_adv
        super().observe(x_adv, loss, grad)

    def adapt(self, feasible: Ball, window: int) -> None:
        """Halve step sizes where the two conditions tell."""
        oscillates = self.increases < self.rho * window
        stuck = ~self.halved & (self.best_loss <= self.last_best_loss)
        self.halved = oscillates | stuck
        self.step_size = self._where(self.halved, self.step_size / 2, self.step_size)
        self._return_to_best(self.halved)
        self.last_best_loss, self.increases = self.best_loss, torch.zeros_like(self.increases)
