"""Threat models: what a perturbation may be, as a ball around each image intersected with the pixel box [0, 1].

A ball knows three things, and every attack is written in terms of them: how to project onto the feasible set, how to
draw a random start in it, and which unit step increases a linear function most.
"""

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from typing_extensions import Self

Norm: TypeAlias = Literal["linf", "l2", "l1"]
"""The norm that bounds a perturbation."""

_TINY = 1e-12
_SPARSITY = 0.01


class Ball(ABC):
    """The images within ``eps`` of ``x`` in some norm that lie in the box [0, 1].

    Args:
        x: Images in [0, 1] of shape ``(N, ...)``, the centres.
        eps: The radius in pixel units: one number, or one per image of shape ``(N,)``.
    """

    def __init__(self, x: Tensor, eps: float | Tensor) -> None:
        self.x = x
        self.eps = per_image(eps, x)

    def select(self, rows: Tensor) -> Self:
        """Give the balls around some of the centres, by index."""
        chosen = type(self).__new__(type(self))
        # every attribute of a ball has one row per image
        chosen.__dict__.update({name: value[rows] for name, value in vars(self).items()})
        return chosen

    @abstractmethod
    def project(self, x_adv: Tensor) -> Tensor:
        """Map images of shape ``(N, ...)`` into the ball and the box; feasible images stay as they are."""

    @abstractmethod
    def random_start(self) -> Tensor:
        """Draw one feasible image per centre, from the default random generator."""

    @abstractmethod
    def steepest(self, grad: Tensor, x_adv: Tensor) -> Tensor:
        """Give the direction of unit norm in which a function of this gradient at ``x_adv`` grows fastest."""

    @abstractmethod
    def distance(self, x_adv: Tensor) -> Tensor:
        """Measure how far each image is from its centre, of shape ``(N,)``."""


class LinfBall(Ball):
    """Every pixel may change by at most eps.

    The intersection with the box is a box again, so the projection is exact: a clamp between bounds computed once.
    """

    def __init__(self, x: Tensor, eps: float | Tensor) -> None:
        super().__init__(x, eps)
        self.lower = (x - self.eps).clamp_(min=0)
        self.upper = (x + self.eps).clamp_(max=1)

    def project(self, x_adv: Tensor) -> Tensor:
        """Clamp each pixel between its bounds."""
        return torch.clamp(x_adv, self.lower, self.upper)

    def random_start(self) -> Tensor:
        """Draw from U(x - eps, x + eps), then clip to the box (Madry et al. 2018)."""
        return self.project(self.x + self.eps * (2 * torch.rand_like(self.x) - 1))

    def steepest(self, grad: Tensor, x_adv: Tensor) -> Tensor:
        """Give the sign of the gradient."""
        return grad.sign()

    def distance(self, x_adv: Tensor) -> Tensor:
        """Give the largest change of a pixel."""
        return (x_adv - self.x).abs().flatten(1).amax(1)


class L2Ball(Ball):
    """The Euclidean norm of the change is at most eps.

    The projection scales the change back onto the ball and then clips to the box. Clipping only shrinks the change,
    since the centre lies in the box, so the result is feasible.
    """

    def project(self, x_adv: Tensor) -> Tensor:
        """Scale the change onto the ball, then clip to the box."""
        delta = x_adv - self.x
        norm = spread(delta.flatten(1).norm(dim=1), delta)
        return (self.x + delta * (self.eps / norm.clamp(min=_TINY)).clamp(max=1)).clamp(0, 1)

    def random_start(self) -> Tensor:
        """Draw a uniform direction with a length from U(0, eps), then clip to the box."""
        direction = self.steepest(torch.randn_like(self.x), self.x)
        radius = spread(torch.rand(len(self.x), dtype=self.x.dtype, device=self.x.device), self.x)
        return self.project(self.x + self.eps * radius * direction)

    def steepest(self, grad: Tensor, x_adv: Tensor) -> Tensor:
        """Give the gradient divided by its Euclidean norm; a zero gradient stays zero."""
        # divided by its largest entry first: squares of gradients near 1e-25 would vanish in float32
        scaled = grad / spread(grad.flatten(1).abs().amax(1).clamp(min=torch.finfo(grad.dtype).tiny), grad)
        return scaled / spread(scaled.flatten(1).norm(dim=1).clamp(min=_TINY), grad)

    def distance(self, x_adv: Tensor) -> Tensor:
        """Give the Euclidean norm of the change."""
        return (x_adv - self.x).flatten(1).norm(dim=1)


class L1Ball(Ball):
    """The sum of the absolute changes is at most eps.

    Here clipping after the projection onto the ball would waste most of the budget, since few pixels change, and by
    much. So the projection is the exact Euclidean one onto the intersection of ball and box (Croce & Hein 2021, "Mind
    the box"): pixel i changes by ``sign(d_i) * min(max(|d_i| - t, 0), room_i)`` with the smallest ``t >= 0`` for which
    the changes sum to at most eps.
    """

    def project(self, x_adv: Tensor) -> Tensor:
        """Soft-threshold the change, clip it to the box, with the threshold that meets the budget exactly."""
        delta = (x_adv - self.x).flatten(1)
        size, centre = delta.abs(), self.x.flatten(1)
        room = torch.where(delta > 0, 1 - centre, centre)
        threshold = _l1_threshold(size, room, self.eps.flatten())
        change = delta.sign() * torch.minimum((size - threshold).clamp(min=0), room)
        # rounding can leave the sum an ulp per pixel above eps, so it is scaled down by what is left over
        change = change * (self.eps.flatten() / change.abs().sum(1).clamp(min=_TINY)).clamp(max=1).unsqueeze(1)
        x_adv = (centre + change).clamp(0, 1)
        # adding rounds all pixels that moved by the same threshold the same way; together that could exceed eps
        further = (x_adv - centre).abs() > change.abs()
        return torch.where(further, torch.nextafter(x_adv, centre), x_adv).view_as(self.x)

    def random_start(self) -> Tensor:
        """Draw a direction uniform on the L1 sphere with a length from U(0, eps), then project."""
        laplace = torch.empty_like(self.x).exponential_() * torch.randn_like(self.x).sign()
        direction = laplace / spread(laplace.abs().flatten(1).sum(1), laplace)
        radius = spread(torch.rand(len(self.x), dtype=self.x.dtype, device=self.x.device), self.x)
        return self.project(self.x + self.eps * radius * direction)

    def steepest(self, grad: Tensor, x_adv: Tensor) -> Tensor:
        """Spread a unit step evenly over the 1 % of pixels with the largest gradients that have room to move.

        One pixel alone would be steepest; taking a few keeps the number of steps small (SLIDE, Tramèr & Boneh 2019).
        """
        movable = torch.where(grad > 0, x_adv < 1, x_adv > 0)
        size = (grad.abs() * movable).flatten(1)
        count = max(1, round(_SPARSITY * size.shape[1]))
        top = size.topk(count, dim=1)
        chosen = torch.zeros_like(size).scatter_(1, top.indices, (top.values > 0).to(size.dtype))
        direction = grad.sign() * chosen.view_as(grad)
        return direction / spread(chosen.sum(1).clamp(min=1), grad)

    def distance(self, x_adv: Tensor) -> Tensor:
        """Give the sum of absolute changes."""
        return (x_adv - self.x).abs().flatten(1).sum(1)


_BALLS: dict[str, type[Ball]] = {"linf": LinfBall, "l2": L2Ball, "l1": L1Ball}


def ball(norm: Norm, x: Tensor, eps: float | Tensor) -> Ball:
    """Give the feasible set around a batch of images.

    Args:
        norm: The norm that bounds the perturbation.
        x: Images in [0, 1] of shape ``(N, ...)``.
        eps: The radius in pixel units: one number, or one per image of shape ``(N,)``.

    Example:
        >>> ball("linf", torch.tensor([[0.1]]), 0.2).project(torch.tensor([[-1.0]])).item()
        0.0
    """
    return _BALLS[norm](x, eps)


def check_norm(norm: str) -> None:
    """Raise a ValueError unless ``norm`` is one of the norms of this module."""
    if norm not in _BALLS:
        raise ValueError(f"norm must be one of {', '.join(_BALLS)}, got {norm!r}.")


def per_image(value: float | Tensor, x: Tensor) -> Tensor:
    """Shape one number, or one per image, so that it multiplies images of shape ``(N, ...)``."""
    # new_full rather than as_tensor: no copy from the host that a stream would have to wait for
    values = value.to(x) if isinstance(value, Tensor) else x.new_full((len(x),), value)
    if values.dim() == 0:
        values = values.expand(len(x))
    if values.shape != x.shape[:1]:
        raise ValueError(f"eps must be one number or one per image, shape ({len(x)},), got {tuple(values.shape)}.")
    return spread(values, x)


def spread(values: Tensor, x: Tensor) -> Tensor:
    """Shape one value per image, ``(N,)``, so that it goes with images ``x`` of shape ``(N, ...)``."""
    return values.view(-1, *[1] * (x.dim() - 1))


def _l1_threshold(size: Tensor, room: Tensor, eps: Tensor) -> Tensor:
    """Find the smallest t >= 0 with ``sum_i min(max(size_i - t, 0), room_i) <= eps``, per row, of shape ``(N, 1)``.

    The sum falls piecewise linearly in t: term i falls with slope -1 between ``size_i - room_i`` and ``size_i``.
    """
    starts = (size - room).clamp(min=0)
    points, order = torch.cat([starts, size.clamp(min=0)], dim=1).sort(dim=1)
    slopes = torch.cat([-torch.ones_like(size), torch.ones_like(size)], dim=1).gather(1, order).cumsum(1)
    total = torch.minimum(size, room).sum(1, keepdim=True)
    falls = slopes[:, :-1] * points.diff(dim=1)
    values = torch.cat([total, total + falls.cumsum(1)], dim=1)
    # the last breakpoint whose value is still above eps; the answer lies on the segment that starts there
    index = ((values > eps.unsqueeze(1)).sum(1, keepdim=True) - 1).clamp(min=0)
    excess = (values.gather(1, index) - eps.unsqueeze(1)).clamp(min=0)
    slope = slopes.gather(1, index).clamp(max=-1)
    return torch.where(total > eps.unsqueeze(1), points.gather(1, index) - excess / slope, 0.0)
