"""Hyperplanes: the decision boundary nearest to an image, linearised, and the shortest move onto it within the box."""

import torch
from torch import Tensor

from lightning_advreg.attacks.objective import InnerObjective, input_gradient
from lightning_advreg.attacks.threat import Norm, spread

ORDER: dict[Norm, float] = {"linf": torch.inf, "l2": 2, "l1": 1}
"""The order p of each norm."""

DUAL: dict[Norm, float] = {"linf": 1, "l2": 2, "l1": torch.inf}
"""The order q of the dual norm, 1/p + 1/q = 1: the distance to a hyperplane is ``|gap| / ||normal||_q``."""

_FAR = 1e30
_IMAGES_IN_CACHE = 64
_MOST_NEWTON_STEPS = 100


def onto_hyperplane(norm: Norm, x: Tensor, normal: Tensor, rise: Tensor) -> Tensor:
    """Give the shortest moves from images onto hyperplanes, within the box [0, 1].

    Solves, per image, ``min ||m||_p`` subject to ``<w, m> = rise`` and ``x + m`` in [0, 1] (Croce & Hein 2020,
    "Minimally distorted adversarial examples with a fast adaptive boundary attack", eq. 6 and appendix A). For a
    positive rise every pixel moves by some ``m_i`` between 0 and its room ``r_i``, in the direction of ``sign(w_i)``:

    - Linf: ``m_i = min(t, r_i)``;
    - L2: ``m_i = min(t |w_i|, r_i)``;
    - L1: the pixels with the largest ``|w_i|`` are filled first, and the last one only as far as needed.

    The sum ``<w, m>`` is piecewise linear in ``t``, so that ``t`` is exact once it is known which pixels are full: from
    sorting the points where it bends or, on the CPU, from a few steps of Newton's method. Where the hyperplane does not
    meet the box, the move goes to the corner that comes closest.

    Args:
        norm: The norm of the move.
        x: Images in [0, 1] of shape ``(N, ...)``.
        normal: The normals w, of the shape of ``x``; where one is 0, the image stays.
        rise: How much ``<w, z>`` must grow from ``z = x``, of shape ``(N,)``; may be negative.

    Returns:
        The moves, of the shape of ``x``.

    Example:
        >>> x, normal = torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, 1.0]])
        >>> onto_hyperplane("linf", x, normal, torch.tensor([0.3]))
        tensor([[0.2000, 0.1000]])
    """
    if x.is_cpu and len(x) > _IMAGES_IN_CACHE:
        parts = zip(*(part.split(_IMAGES_IN_CACHE) for part in (x, normal, rise)), strict=True)
        return torch.cat([onto_hyperplane(norm, *part) for part in parts])
    slope, centre = normal.flatten(1) * rise.sign().unsqueeze(1), x.flatten(1)
    # 1 - centre upwards, centre downwards, without the slow `where`
    room = (slope > 0).to(centre.dtype).sub_(centre).abs_()
    # gradients of saturated networks may be near 1e-25, and their squares vanish in float32
    scale = slope.abs().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    weight, goal = slope.abs() / scale, rise.abs().unsqueeze(1) / scale
    if norm == "l1":
        size = _fill(weight, room, goal)
    else:
        grow = _grow_by_newton if room.is_cpu else _grow_by_sorting
        size = grow(weight, weight if norm == "l2" else None, room, goal)
    return (slope.sign() * size).view_as(x)


def nearest_boundary(
    norm: Norm, objective: InnerObjective, x_adv: Tensor, rivals: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Linearise the decision boundary that looks nearest from each image.

    The boundary between label y and class l is approximated by ``{z : gap_l + <w_l, z - x_adv> = 0}`` with
    ``gap_l = f_l(x_adv) - f_y(x_adv)`` and ``w_l`` its gradient; of all rivals, the one with the smallest
    ``-gap_l / ||w_l||_q`` is taken. Before the boundaries that is the nearest (Moosavi-Dezfooli et al. 2016, eq. 8);
    behind some, the one that is farthest back, where the region of the label begins. A targeted objective has one
    boundary, that between the target and the most likely other class. Costs one forward pass and one backward pass per
    rival, and keeps two gradients at a time.

    Args:
        norm: The norm p in which distances are measured.
        objective: Of the loss ``margin``.
        x_adv: Images of shape ``(N, ...)``.
        rivals: Classes other than the label, of shape ``(N, R)``, int64; ignored if the objective is targeted.

    Returns:
        The gaps ``(N,)``, negative before the boundary; the normals, of the shape of ``x_adv``; the logits ``(N, K)``.
    """
    leaf = x_adv.detach().requires_grad_()
    logits = objective.logits(leaf)
    if objective.targeted:
        gaps = objective.loss(logits).unsqueeze(1)
    else:
        gaps = logits.gather(1, rivals) - logits.gather(1, objective.y.unsqueeze(1))
    count = gaps.shape[1]
    gap, normal = gaps[:, 0].detach(), input_gradient(gaps[:, 0].sum(), leaf, keep_graph=count > 1)
    for index in range(1, count):
        other = input_gradient(gaps[:, index].sum(), leaf, keep_graph=index < count - 1)
        nearer = _distance(norm, gaps[:, index].detach(), other) < _distance(norm, gap, normal)
        gap = torch.where(nearer, gaps[:, index].detach(), gap)
        normal = torch.where(spread(nearer, normal), other, normal)
    logits = logits.detach()
    # on the boundary itself rounding decides about the class, so the goal lies behind it
    return gap - 2 * rounding(logits), normal, logits


def rounding(logits: Tensor) -> Tensor:
    """Give the difference of logits ``(N, K)`` up to which the next pass, in another batch, may order them anew."""
    return 32 * torch.finfo(logits.dtype).eps * logits.abs().amax(1)


def wrong_classes(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """Give the ``count`` most likely classes other than the label, most likely first, of shape ``(N, count)``."""
    return logits.scatter(1, y.unsqueeze(1), -torch.inf).topk(count, dim=1).indices


def norm_of(norm: Norm, change: Tensor) -> Tensor:
    """Give the norm of each change of shape ``(N, ...)``, of shape ``(N,)``."""
    flat = change.flatten(1)
    # several times faster than vector_norm on the CPU
    return flat.abs().amax(1) if norm == "linf" else torch.linalg.vector_norm(flat, ORDER[norm], dim=1)


def _distance(norm: Norm, gap: Tensor, normal: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(normal.flatten(1), DUAL[norm], dim=1)
    return torch.where(size > 0, -gap / size, torch.inf)


def _grow_by_newton(weight: Tensor, speed: Tensor | None, room: Tensor, goal: Tensor) -> Tensor:
    """Solve ``sum_i weight_i * min(t * speed_i, room_i) = goal`` for t, and give ``min(t * speed, room)``.

    Without a speed it is 1. The sum is concave in t and linear between the points where pixels become full, so that
    Newton's method climbs to the solution from below in a finite number of steps, mostly two. Each ends with a question
    to the device. Beyond reach, t is so large that all is full.
    """
    rate = weight if speed is None else weight * speed
    t, size = torch.zeros_like(goal), torch.zeros_like(room)
    rounding = 8 * torch.finfo(goal.dtype).eps * goal
    for _ in range(_MOST_NEWTON_STEPS):
        reached = t if speed is None else t * speed
        slope = torch.linalg.vecdot(rate, (reached < room).to(rate.dtype)).unsqueeze(1)
        left = goal - torch.linalg.vecdot(weight, size).unsqueeze(1)
        step = torch.where(slope > 0, left / slope.clamp(min=_tiny(rate)), _FAR)
        further = torch.where(left > rounding, t + step, t).clamp(max=_FAR)
        if torch.equal(further, t):
            break
        t = further
        size = torch.minimum(t if speed is None else t * speed, room)
    return size


def _grow_by_sorting(weight: Tensor, speed: Tensor | None, room: Tensor, goal: Tensor) -> Tensor:
    """Solve the same, without a question to the device: sort the points where pixels become full."""
    speed = torch.ones_like(weight) if speed is None else speed
    points, order = torch.where(weight > 0, room / speed, 0.0).clamp(max=_FAR).sort(dim=1)
    spent = (weight * room).gather(1, order).cumsum(1)
    rates = (weight * speed).gather(1, order)
    values = spent + points * (rates.sum(1, keepdim=True) - rates.cumsum(1)).clamp(min=0)
    full = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, values < goal) | (room <= 0)
    # not from the sorted sums, which may have been rounded
    left = goal - (weight * room * full).sum(1, keepdim=True)
    rate = (weight * speed * ~full).sum(1, keepdim=True).clamp(min=_tiny(weight))
    return torch.where(full, room, ((left / rate).clamp(min=0, max=_FAR) * speed).minimum(room))


def _tiny(x: Tensor) -> float:
    return torch.finfo(x.dtype).tiny


def _fill(weight: Tensor, room: Tensor, goal: Tensor) -> Tensor:
    """Fill the pixels of the largest weight first, until ``<weight, size> = goal``."""
    weight, order = weight.sort(dim=1, descending=True)
    room = room.gather(1, order)
    gain = weight * room
    count = (gain.cumsum(1) < goal).sum(1, keepdim=True)
    place = torch.arange(gain.shape[1], device=gain.device)
    left = goal - (gain * (place < count)).sum(1, keepdim=True)
    part = (left / weight.clamp(min=torch.finfo(weight.dtype).tiny)).clamp(min=0).minimum(room)
    size = torch.where(place < count, room, torch.where(place == count, part, 0.0))
    return torch.zeros_like(size).scatter(1, order, size)
