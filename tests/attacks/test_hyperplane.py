"""Shortest moves onto hyperplanes within the box, against solvers of linear and quadratic programmes."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from lightning_advreg.attacks import hyperplane
from lightning_advreg.attacks.hyperplane import nearest_boundary, onto_hyperplane, wrong_classes
from lightning_advreg.attacks.objective import InnerObjective

ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}
norms = pytest.mark.parametrize("norm", ORDERS)


def length(norm, move):
    return torch.linalg.vector_norm(move.flatten(1), ORDERS[norm], dim=1)


def inner(a, b):
    return (a * b).flatten(1).sum(1)


def farthest(x, normal, sign):
    """How far <w, z> can grow (sign 1) or fall (sign -1) in the box."""
    return inner(normal, (sign * normal > 0).to(x) - x)


def cases(count=40, size=6, dtype=torch.float64):
    """Images in and out of corners, normals with zeros and ties, and rises that can be met."""
    x = torch.rand(count, size, dtype=dtype)
    x[::4] = x[::4].round()
    normal = torch.randn(count, size, dtype=dtype)
    normal[::3, 0] = 0
    normal[1::3] = normal[1::3].round()
    normal[:, -1] = torch.where(normal.abs().sum(1) > 0, normal[:, -1], 1.0)
    share, sign = torch.rand(count, dtype=dtype), torch.randn(count, dtype=dtype).sign()
    reach = torch.where(sign > 0, farthest(x, normal, 1), farthest(x, normal, -1))
    return x, normal, share * reach


def shortest_linf(x, normal, rise):
    size = len(x)
    upper = np.hstack([np.eye(size), -np.ones((size, 1))])
    solved = linprog(
        [0] * size + [1],
        A_ub=np.vstack([upper, np.hstack([-np.eye(size), -np.ones((size, 1))])]),
        b_ub=np.zeros(2 * size),
        A_eq=[[*normal, 0]],
        b_eq=[rise],
        bounds=[(-v, 1 - v) for v in x] + [(0, None)],
    )
    assert solved.success
    return solved.fun


def shortest_l1(x, normal, rise):
    solved = linprog(
        [1] * 2 * len(x),
        A_eq=[[*normal, *-normal]],
        b_eq=[rise],
        bounds=[(0, 1 - v) for v in x] + [(0, v) for v in x],
    )
    assert solved.success
    return solved.fun


def shortest_l2(x, normal, rise, start):
    solved = minimize(
        lambda m: m @ m,
        start,
        jac=lambda m: 2 * m,
        constraints={"type": "eq", "fun": lambda m: normal @ m - rise, "jac": lambda m: normal},
        bounds=[(-v, 1 - v) for v in x],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 300},
    )
    assert abs(normal @ solved.x - rise) < 1e-8
    return solved.fun**0.5


@norms
def test_as_short_as_the_solver_of_a_programme(norm):
    x, normal, rise = cases()
    move = onto_hyperplane(norm, x, normal, rise)
    torch.testing.assert_close(inner(normal, move), rise, atol=1e-12, rtol=0)
    assert (x + move).min() >= -1e-12 and (x + move).max() <= 1 + 1e-12
    for row in range(len(x)):
        problem = x[row].numpy(), normal[row].numpy(), rise[row].item()
        if norm == "l2":
            # from the corner, so that the solver has to find the way itself
            corner = ((normal[row] * rise[row] > 0).to(x) - x[row]).numpy() * 0.5
            best = shortest_l2(*problem, corner)
        else:
            best = {"linf": shortest_linf, "l1": shortest_l1}[norm](*problem)
        assert length(norm, move)[row].item() == pytest.approx(best, abs=1e-6)


@norms
def test_no_feasible_point_is_nearer(norm):
    x, normal, rise = cases(count=30, size=8)
    move = onto_hyperplane(norm, x, normal, rise)
    corner = torch.where((normal * rise.sign().unsqueeze(1)) > 0, 1 - x, -x)
    compared = 0
    for _ in range(200):
        other = torch.rand_like(x) - x
        # between a random point and the corner farthest along the normal lies a point of the hyperplane
        low, high = inner(normal, other), inner(normal, corner)
        share = (rise - low) / (high - low)
        valid = (share >= 0) & (share <= 1)
        other = other + share.clamp(0, 1).unsqueeze(1) * (corner - other)
        assert (length(norm, move) <= length(norm, other) + 1e-9)[valid].all()
        compared += int(valid.sum())
    assert compared > 1000


@norms
@pytest.mark.parametrize("sign", [1, -1])
def test_beyond_reach_goes_to_the_nearest_corner(norm, sign):
    x, normal, _ = cases()
    move = onto_hyperplane(norm, x, normal, sign * torch.full((len(x),), 100.0, dtype=x.dtype))
    corner = torch.where(normal * sign > 0, 1 - x, -x)
    torch.testing.assert_close(move, torch.where(normal == 0, 0.0, corner))
    # just within reach, the same corner
    almost = farthest(x, normal, sign)
    torch.testing.assert_close(inner(normal, onto_hyperplane(norm, x, normal, almost)), almost, atol=1e-9, rtol=0)


@norms
def test_stays_where_nothing_is_to_gain(norm):
    x, normal, _ = cases()
    assert torch.equal(onto_hyperplane(norm, x, normal, torch.zeros(len(x)).double()), torch.zeros_like(x))
    for rise in (1.0, -1.0, 0.0):
        move = onto_hyperplane(norm, x, torch.zeros_like(x), torch.full((len(x),), rise).double())
        assert torch.equal(move, torch.zeros_like(x))


@norms
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_scale_of_the_normal_does_not_matter(norm, scale):
    x, normal, rise = (part.float() for part in cases())
    move = onto_hyperplane(norm, x, normal, rise)
    scaled = onto_hyperplane(norm, x, normal * scale, rise * scale)
    torch.testing.assert_close(scaled, move, atol=1e-5, rtol=0)


@norms
def test_rounding_of_many_pixels_does_not_add_up(norm):
    x, normal = torch.rand(8, 3, 64, 64), torch.randn(8, 3, 64, 64)
    for share in (1e-4, 0.1, 0.9, 0.999):
        rise = share * farthest(x, normal, 1)
        move = onto_hyperplane(norm, x, normal, rise)
        reached = inner(normal.double(), move.double())
        torch.testing.assert_close(reached, rise.double(), rtol=2e-6, atol=0)


def test_rows_do_not_see_each_other():
    x, normal, rise = cases(count=9)
    for norm in ORDERS:
        together = onto_hyperplane(norm, x, normal, rise)
        rows = zip(x.split(1), normal.split(1), rise.split(1), strict=True)
        alone = torch.cat([onto_hyperplane(norm, *row) for row in rows])
        torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)


def test_a_tiny_weight_that_alone_has_room_is_used():
    # the steep pixel is full already
    x, normal = torch.tensor([[1.0, 0.5]]), torch.tensor([[1.0, 1e-6]])
    for norm in ORDERS:
        move = onto_hyperplane(norm, x, normal, torch.tensor([2e-7]))
        torch.testing.assert_close(move, torch.tensor([[0.0, 0.2]]))


@pytest.fixture
def three_classes():
    # from the image (0.5, 0.5) the boundaries are at Linf 0.1/1, 0.3/4; at L2 0.1/1, 0.3/sqrt(8)
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 2.0]])
    bias = torch.tensor([0.0, -0.6, -2.3])
    return lambda z: z @ weight.T + bias


@pytest.mark.parametrize(("norm", "nearest"), [("linf", 2), ("l2", 1), ("l1", 1)])
def test_the_nearest_boundary_depends_on_the_norm(three_classes, norm, nearest):
    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    objective = InnerObjective(three_classes, x, y, loss="margin")
    gap, normal, logits = nearest_boundary(norm, objective, x, torch.tensor([[1, 2]]))
    torch.testing.assert_close(gap, torch.tensor([[-0.1], [-0.3]])[nearest - 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(normal, torch.tensor([[[1.0, 0.0]], [[2.0, 2.0]]])[nearest - 1])
    torch.testing.assert_close(logits, three_classes(x))


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_behind_two_boundaries_the_farther_back_counts(three_classes, norm):
    # behind the first by 0.1, behind the second by more; another is 0.05 ahead
    x, y = torch.tensor([[0.7, 0.95]]), torch.tensor([0])
    with_third = lambda z: torch.cat([three_classes(z), z[:, 1:] - 1], dim=1)  # noqa: E731
    objective = InnerObjective(with_third, x, y, loss="margin")
    gap, normal, _ = nearest_boundary(norm, objective, x, torch.tensor([[1, 3, 2]]))
    torch.testing.assert_close(gap, torch.tensor([1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal, torch.tensor([[2.0, 2.0]]))


def test_a_class_without_gradient_is_never_nearest(three_classes):
    # although its logit equals that of the label
    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
    with_constant = lambda z: torch.cat([three_classes(z), torch.zeros(1, 1)], dim=1)  # noqa: E731
    objective = InnerObjective(with_constant, x, y, loss="margin")
    for rivals in ([[3, 1]], [[1, 3]]):
        gap, _, _ = nearest_boundary("l2", objective, x, torch.tensor(rivals))
        torch.testing.assert_close(gap, torch.tensor([-0.1]), atol=1e-4, rtol=0)


def test_wrong_classes_are_ranked_without_the_label():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [3.0, 1.0, 2.0, 0.0]])
    ranked = wrong_classes(logits, torch.tensor([0, 2]), 3)
    assert ranked.tolist() == [[2, 1, 3], [0, 1, 3]]


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 1.0, 1.5])
def test_both_ways_to_find_the_size_agree(share, corners):
    generator = torch.Generator().manual_seed(int(100 * share))
    room = torch.rand(20, 50, generator=generator, dtype=torch.float64)
    if corners:
        room[:, ::2] = room[:, ::2].round()
    weight = torch.rand(20, 50, generator=generator, dtype=torch.float64)
    weight[:, :5] = 0
    goal = share * (weight * room).sum(1, keepdim=True)
    for speed in (weight, None):
        ways = (hyperplane._grow_by_newton, hyperplane._grow_by_sorting)
        grown = [torch.where(weight > 0, way(weight, speed, room, goal), 0.0) for way in ways]
        torch.testing.assert_close(*grown)
        for sizes in grown:
            assert (sizes <= room).all() and (sizes >= 0).all()
            reached = (weight * sizes).sum(1, keepdim=True)
            torch.testing.assert_close(reached, torch.minimum(goal, (weight * room).sum(1, keepdim=True)))
