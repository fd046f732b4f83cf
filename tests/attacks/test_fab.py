"""FAB finds the nearest image that the network gets wrong."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from lightning_advreg.attacks.base import SearchAttack
from lightning_advreg.attacks.fab import FAB
from lightning_advreg.attacks.hyperplane import onto_hyperplane

ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}
DUALS = {"linf": 1, "l2": 2, "l1": torch.inf}
SHAPES = [(1, 8, 8), (3, 5, 4), (10,)]

norms = pytest.mark.parametrize("norm", ORDERS)
cases = pytest.mark.parametrize(
    ("shape", "batch"), [(s, b) for s in SHAPES for b in (1, 7)], ids=lambda v: str(v).replace(" ", "")
)


def run(attack, model, x, y, **kwargs):
    """Past the evaluation: the search itself."""
    return SearchAttack.__call__(attack, model, x, y, **kwargs)


def distance(norm, x_adv, x):
    return torch.linalg.vector_norm((x_adv - x).flatten(1), ORDERS[norm], dim=1)


class Linear:
    def __init__(self, shape, classes, *, dtype=torch.float64):
        self.weight = torch.randn(classes, *shape, dtype=dtype)
        self.bias = -0.5 * self.weight.flatten(1).sum(1)
        self.calls, self.images = 0, 0

    def __call__(self, x):
        self.calls += 1
        self.images += len(x)
        return x.flatten(1) @ self.weight.flatten(1).T + self.bias

    def boundaries(self, x, y):
        """Gaps (N, K) and normals (N, K, D) of the boundaries between the label and every class."""
        logits = self(x)
        return logits - logits.gather(1, y[:, None]), self.weight.flatten(1)[None] - self.weight.flatten(1)[y][:, None]

    def nearest(self, norm, x, y, target=None):
        """Distance to the nearest boundary where no pixel meets the box, or to that with a class."""
        gap, normal = self.boundaries(x, y)
        away = gap.abs() / torch.linalg.vector_norm(normal, DUALS[norm], dim=2)
        if target is not None:
            return away.gather(1, target[:, None])[:, 0]
        return away.scatter(1, y[:, None], torch.inf).amin(1)


def linear_case(shape, batch, classes, *, inside=True):
    model = Linear(shape, classes)
    x = torch.rand(batch, *shape).double()
    # inside: so near a boundary that the way there meets no side of the box
    x = 0.5 + 0.02 * (x - 0.5) if inside else x.round(decimals=1)
    return model, x, model(x).argmax(1)


def wrong(model, x_adv, y):
    return model(x_adv).argmax(1) != y


@cases
@norms
@pytest.mark.parametrize("targets", [0, 1])
@pytest.mark.parametrize("inside", [True, False])
def test_two_classes_exactly(shape, batch, norm, targets, inside):
    model, x, y = linear_case(shape, batch, 2, inside=inside)
    x_adv = run(FAB(norm=norm, steps=15, targets=targets), model, x, y)
    gap, normal = model.boundaries(x, y)
    gap, normal = gap.gather(1, 1 - y[:, None])[:, 0], normal[torch.arange(batch), 1 - y].view_as(x)
    best = distance(norm, x + onto_hyperplane(norm, x, normal, -gap), x)
    if inside:
        torch.testing.assert_close(best, model.nearest(norm, x, y), rtol=1e-9, atol=0)
    assert wrong(model, x_adv, y).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    # where the box binds, the way back along a straight line misses the optimum by a little
    torch.testing.assert_close(distance(norm, x_adv, x), best, rtol=2e-4 if inside else 4e-3, atol=1e-7)


@norms
@pytest.mark.parametrize("targets", [0, 5])
def test_the_nearest_of_many_boundaries(norm, targets):
    model, x, y = linear_case((3, 4, 4), 9, 6)
    x_adv = run(FAB(norm=norm, steps=30, targets=targets), model, x, y)
    assert wrong(model, x_adv, y).all()
    torch.testing.assert_close(distance(norm, x_adv, x), model.nearest(norm, x, y), rtol=1e-3, atol=1e-7)


@norms
def test_towards_the_likeliest_wrong_class_alone(norm):
    # the runner-up is far from the label for some images, and another class near
    model, x, y = linear_case((10,), 100, 6)
    second = model(x).topk(2).indices[:, 1]
    best, that = model.nearest(norm, x, y), model.nearest(norm, x, y, second)
    assert (that > 1.1 * best).sum() >= 3
    found = distance(norm, run(FAB(norm=norm, steps=30, targets=1), model, x, y), x)
    assert (found <= that * 1.001).all()
    assert (found > 1.05 * best).any()


def shortest_way(norm, gaps, normals):
    """The shortest move to where all gaps are closed, box aside: a linear programme."""
    count, size = normals.shape
    if norm == "l1":
        both = np.hstack([normals, -normals])
        return linprog(np.ones(2 * size), A_ub=-both, b_ub=gaps, bounds=(0, None)).fun
    length = np.full((size, 1), -1.0)
    sides = np.vstack([np.hstack([np.eye(size), length]), np.hstack([-np.eye(size), length])])
    planes = np.hstack([-normals, np.zeros((count, 1))])
    bounds = [(None, None)] * size + [(0, None)]
    limits = np.concatenate([gaps, np.zeros(2 * size)])
    return linprog([0] * size + [1], A_ub=np.vstack([planes, sides]), b_ub=limits, bounds=bounds).fun


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_targeted_reaches_the_target(norm):
    model = Linear((3, 4, 4), 3)
    x = (0.5 + 0.02 * (torch.rand(12, 3, 4, 4) - 0.5)).double()
    # towards the least likely class, often across the boundaries with both others
    target = model(x).argmin(1)
    x_adv = run(FAB(norm=norm, steps=40, targeted=True), model, x, target)
    assert torch.equal(model(x_adv).argmax(1), target)
    found, best = distance(norm, x_adv, x), []
    for row, label in enumerate(target.tolist()):
        others = [label_ for label_ in range(3) if label_ != label]
        logits, weight = model(x[row : row + 1])[0], model.weight.flatten(1)
        best.append(shortest_way(norm, *((part[label] - part[others]).numpy() for part in (logits, weight))))
    best = torch.tensor(best, dtype=torch.float64)
    assert (found >= best * (1 - 1e-6)).all() and (found <= 1.3 * best).all()
    assert (found <= 1.001 * best).sum() >= 3


def test_targeted_of_two_classes_is_untargeted_towards_the_other(net):
    two = lambda x: net(x)[:, :2]  # noqa: E731
    x = torch.rand(8, 3, 6, 6)
    y = two(x).argmax(1)
    expected = run(FAB(norm="l2", steps=10), two, x, y)
    torch.testing.assert_close(run(FAB(norm="l2", steps=10, targeted=True), two, x, 1 - y), expected, atol=1e-6, rtol=0)
    assert wrong(two, expected, y).all()


@norms
def test_images_in_corners_of_the_box(norm):
    model = Linear((1, 6, 6), 4)
    x = torch.rand(8, 1, 6, 6).double().round()
    x[0], x[1] = 0, 1
    y = model(x).argmax(1)
    x_adv = run(FAB(norm=norm, steps=60), model, x, y)
    assert wrong(model, x_adv, y).all() and x_adv.min() >= 0 and x_adv.max() <= 1
    gap, normal = model.boundaries(x, y)
    best = torch.full((8,), torch.inf).double()
    for label in range(4):
        move = onto_hyperplane(norm, x, normal[:, label].view_as(x), -gap[:, label])
        reached = (gap[:, label] + (move.flatten(1) * normal[:, label]).sum(1)).abs() < 1e-9
        best = torch.where(reached & (y != label), distance(norm, move, torch.zeros_like(x)).minimum(best), best)
    assert best.isfinite().all()
    torch.testing.assert_close(distance(norm, x_adv, x), best, rtol=2e-3, atol=0)


@norms
@pytest.mark.parametrize("stop", [True, False])
def test_images_beyond_eps_come_back_clean(norm, stop):
    model, x, y = linear_case((3, 4, 4), 12, 4)
    best = model.nearest(norm, x, y)
    eps = best.median().item() * 1.001
    x_adv = run(FAB(norm=norm, steps=30, eps=eps, stop_within_eps=stop), model, x, y)
    near = best < eps * 0.999
    assert 0 < near.sum() < 12
    assert wrong(model, x_adv[near], y[near]).all()
    far = best > eps
    assert torch.equal(x_adv[far], x[far])
    found = distance(norm, x_adv, x)
    assert (found <= eps).all()
    if not stop:
        torch.testing.assert_close(found[near], best[near], rtol=1e-3, atol=0)


@norms
def test_a_budget_per_image(norm):
    model, x, y = linear_case((10,), 6, 3)
    best = model.nearest(norm, x, y)
    eps = best * torch.tensor([1.2, 0.9, 1.2, 0.9, 3.0, 0.0])
    x_adv = run(FAB(norm=norm, steps=30, eps=1e-9), model, x, y, eps=eps)
    assert wrong(model, x_adv, y).tolist() == [True, False, True, False, True, False]
    assert (distance(norm, x_adv, x) <= eps * (1 + 1e-6)).all()
