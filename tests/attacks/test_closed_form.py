"""On a linear model the worst case in each ball is known exactly."""

import pytest
import torch

from lightning_advreg.attacks import FGSM, PGD

SHAPES = [(1, 8, 8), (3, 5, 4), (10,)]
BATCHES = [1, 7]
EPS = 0.1


class Linear:
    """Two logits; the margin loss of image i has the constant gradient ``slope[i]``."""

    def __init__(self, shape, batch, *, inside):
        self.weight = torch.randn(2, *shape)
        # inside: no pixel comes near the box; otherwise the box binds for many
        self.x = 0.4 + 0.2 * torch.rand(batch, *shape) if inside else torch.rand(batch, *shape).round(decimals=1)
        self.y = torch.arange(batch) % 2
        self.slope = self.weight[1 - self.y] - self.weight[self.y]

    def __call__(self, x):
        return x.flatten(1) @ self.weight.flatten(1).T

    def margin(self, x):
        return ((x - 0.5) * self.slope).flatten(1).sum(1)


def norm(slope, p):
    return torch.linalg.vector_norm(slope.flatten(1), p, dim=1)


cases = pytest.mark.parametrize(
    ("shape", "batch"), [(s, b) for s in SHAPES for b in BATCHES], ids=lambda v: str(v).replace(" ", "")
)


@cases
@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    "attack",
    [
        lambda loss: FGSM(eps=EPS, loss=loss),
        lambda loss: PGD(eps=EPS, step_size=EPS / 4, steps=10, loss=loss),
        lambda loss: PGD(eps=EPS, step_size=EPS / 4, steps=4, loss=loss, random_start=False),
    ],
    ids=["fgsm", "pgd", "pgd-no-start"],
)
def test_linf_goes_to_the_corner_of_ball_and_box(shape, batch, loss, inside, attack):
    model = Linear(shape, batch, inside=inside)
    x_adv = attack(loss)(model, model.x, model.y)
    torch.testing.assert_close(x_adv, (model.x + EPS * model.slope.sign()).clamp(0, 1), atol=1e-6, rtol=0)
    if inside:
        gain = model.margin(x_adv) - model.margin(model.x)
        torch.testing.assert_close(gain, EPS * norm(model.slope, 1), atol=1e-5, rtol=1e-5)


@cases
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_l2_goes_along_the_gradient(shape, batch, loss):
    model = Linear(shape, batch, inside=True)
    best = model.x + EPS * model.slope / norm(model.slope, 2).view(-1, *[1] * len(shape))
    one_step = FGSM(norm="l2", eps=EPS, loss=loss)(model, model.x, model.y)
    torch.testing.assert_close(one_step, best, atol=1e-6, rtol=0)
    # each step past the sphere shrinks the sideways part of a random start
    many = PGD(norm="l2", eps=EPS, step_size=EPS / 2, steps=40, loss=loss)(model, model.x, model.y)
    torch.testing.assert_close(many, best, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.margin(many) - model.margin(model.x), EPS * norm(model.slope, 2))


@cases
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_l1_spends_the_budget_on_the_steepest_pixel(shape, batch, loss):
    model = Linear(shape, batch, inside=True)
    flat = model.slope.flatten(1)
    top = flat.abs().argmax(1, keepdim=True)
    best = model.x + EPS * torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign()).view_as(model.x)
    for attack in (
        FGSM(norm="l1", eps=EPS, loss=loss),
        PGD(norm="l1", eps=EPS, step_size=EPS / 4, steps=6, random_start=False, loss=loss),
    ):
        x_adv = attack(model, model.x, model.y)
        torch.testing.assert_close(x_adv, best, atol=1e-6, rtol=0)
        gain = model.margin(x_adv) - model.margin(model.x)
        torch.testing.assert_close(gain, EPS * norm(model.slope, torch.inf), atol=1e-5, rtol=1e-5)


@cases
def test_l1_moves_on_to_the_next_pixel_when_one_is_full(shape, batch):
    eps, step = 1.5, 0.02
    model = Linear(shape, batch, inside=False)
    # the optimum fills pixels to the box, steepest first, until the budget is spent
    slope, x = model.slope.flatten(1), model.x.flatten(1)
    room = torch.where(slope > 0, 1 - x, x)
    order = slope.abs().argsort(dim=1, descending=True)
    sorted_room = room.gather(1, order)
    spent = (eps - (sorted_room.cumsum(1) - sorted_room)).clamp(min=0).minimum(sorted_room)
    best = (spent * slope.abs().gather(1, order)).sum(1)

    attack = PGD(norm="l1", eps=eps, step_size=step, steps=150, random_start=False, loss="margin")
    gain = model.margin(attack(model, model.x, model.y)) - model.margin(model.x)
    assert (gain <= best + 1e-4).all()
    # a step may leave a step's worth on the second best pixel
    assert (gain >= best - step * slope.abs().amax(1)).all()
