"""Noise of the distribution it says, inside ball and box, and the best of its tries."""

import itertools

import pytest
import torch

from lightning_advreg.attacks.base import SearchAttack
from lightning_advreg.attacks.noise import Noise

P = {"linf": torch.inf, "l2": 2, "l1": 1}
EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}

kinds = pytest.mark.parametrize(("norm", "distribution"), [(n, d) for n in P for d in ("uniform", "gaussian")])


def run(attack, model, x, y, **keywords):
    return SearchAttack.__call__(attack, model, x, y, **keywords)


class Queries:
    """Logits from a function of the image's mean; remembers what it was asked."""

    def __init__(self, margin=lambda x: x.flatten(1).mean(1) - 1000):
        self.margin, self.asked = margin, []

    def __call__(self, x):
        self.asked.append(x.clone())
        margin = self.margin(x)
        return torch.stack([torch.zeros_like(margin), margin], 1)


def zeros(x):
    return torch.zeros(len(x), dtype=torch.long)


@kinds
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 4), (10,)])
@pytest.mark.parametrize("batch", [1, 7])
def test_it_stays_in_ball_and_box(norm, distribution, shape, batch):
    x = torch.rand(batch, *shape)
    x[0] = torch.rand(shape).round()
    x_adv = run(Noise(norm=norm, eps=EPS[norm], distribution=distribution), Queries(), x, zeros(x))
    moved = torch.linalg.vector_norm((x_adv - x).flatten(1), P[norm], dim=1)
    assert x_adv.shape == x.shape and x_adv.min() >= 0 and x_adv.max() <= 1
    assert (moved <= EPS[norm] + 1e-6).all() and (moved > 0).all()


def changes(norm, distribution, pixels=64):
    x = torch.full((2000, pixels), 0.5)
    eps = 0.2
    return (run(Noise(norm=norm, eps=eps, distribution=distribution), Queries(), x, zeros(x)) - x) / eps


def test_uniform_linf_noise_fills_the_range_evenly():
    noise = changes("linf", "uniform")
    assert noise.var().item() == pytest.approx(1 / 3, rel=0.02)
    assert noise.abs().max().item() == pytest.approx(1, abs=1e-3)
    assert noise.mean().item() == pytest.approx(0, abs=0.01)


def test_gaussian_linf_noise_is_a_normal_of_half_eps_clipped_at_eps():
    noise = changes("linf", "gaussian")
    # beyond two standard deviations lie 4.55 %
    assert (noise.abs() > 1 - 1e-5).float().mean().item() == pytest.approx(0.0455, abs=0.003)
    assert noise.var().item() == pytest.approx(0.2302, rel=0.02)
    assert noise.abs().quantile(0.5).item() == pytest.approx(0.6745 / 2, rel=0.02)


@pytest.mark.parametrize(("norm", "distribution"), [("l2", "uniform"), ("l2", "gaussian"), ("l1", "gaussian")])
def test_directions_have_the_length_eps_and_no_preference(norm, distribution):
    noise = changes(norm, distribution)
    length = torch.linalg.vector_norm(noise, P[norm], dim=1)
    torch.testing.assert_close(length, torch.ones(2000), atol=5e-5, rtol=0)
    direction = noise / noise.norm(dim=1, keepdim=True)
    assert direction.var().item() == pytest.approx(1 / 64, rel=0.02)
    # a normal direction has kurtosis 3 d / (d + 2)
    assert ((direction**4).mean() / (direction**2).mean() ** 2).item() == pytest.approx(3 * 64 / 66, rel=0.05)


def test_uniform_l1_noise_is_uniform_on_its_sphere():
    noise = changes("l1", "uniform")
    torch.testing.assert_close(noise.abs().sum(1), torch.ones(2000), atol=5e-5, rtol=0)
    # each coordinate's size is Beta(1, d - 1), of second moment 2 / (d (d + 1))
    assert (noise**2).mean().item() == pytest.approx(2 / (64 * 65), rel=0.03)
    assert noise.sign().mean().item() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("norm", P)
def test_of_tries_that_all_fail_it_keeps_the_one_with_the_highest_loss(norm):
    x, model = torch.rand(5, 1, 4, 4), Queries()
    x_adv = run(Noise(norm=norm, eps=EPS[norm], tries=8, loss="margin"), model, x, zeros(x))
    asked = torch.stack(model.asked)
    assert asked.shape == (8, *x.shape)
    best = asked.flatten(2).mean(2).argmax(0)
    assert len(best.unique()) > 1
    assert torch.equal(x_adv, asked[best, torch.arange(5)])


def test_an_image_keeps_the_first_try_that_fools_the_model_and_is_asked_about_no_more():
    x = torch.full((40, 16), 0.5)
    model = Queries(lambda z: z.mean(1) - 0.51)
    x_adv = run(Noise(eps=0.1, tries=6), model, x, zeros(x))
    sizes = [len(asked) for asked in model.asked]
    fallen = [int((asked.mean(1) > 0.51).sum()) for asked in model.asked]
    assert sizes[0] == 40 and 0 < sizes[-1] < 40
    assert [a - b for a, b in itertools.pairwise(sizes)] == fallen[:-1]
    assert int((x_adv.mean(1) > 0.51).sum()) == sum(fallen)


def test_a_try_that_fools_the_model_beats_one_with_a_higher_loss():
    def model(z):
        near, flat = torch.tensor([0, 0.01] + 8 * [-50.0]), torch.tensor([0.01] + 9 * [0.0])
        return torch.where(z.mean(1, keepdim=True) > 0.5, near, flat)

    x = torch.full((30, 16), 0.5)
    x_adv = run(Noise(eps=0.1, tries=20, loss="ce"), model, x, zeros(x))
    assert (model(x_adv).argmax(1) == 1).all()


def test_a_budget_per_image_binds():
    x, eps = torch.full((3, 1, 8, 8), 0.5), torch.tensor([0.0, 0.05, 0.4])
    moved = (run(Noise(tries=2), Queries(), x, zeros(x), eps=eps) - x).flatten(1).abs().amax(1)
    torch.testing.assert_close(moved, eps, atol=0.05, rtol=0.05)
    assert moved[0] == 0 and (moved <= eps + 1e-6).all()


def test_targeted_noise_looks_for_the_target():
    x = torch.full((30, 16), 0.5)
    model = Queries(lambda z: z.mean(1) - 0.5)
    for target in (0, 1):
        x_adv = run(Noise(eps=0.1, tries=10, targeted=True), model, x, torch.full((30,), target))
        assert (model(x_adv).argmax(1) == target).float().mean() > 0.9


def test_a_call_runs_it_in_batches_and_repeats():
    x = torch.full((30, 16), 0.5)
    model = Queries(lambda z: z.mean(1) - 0.51)
    attack = Noise(eps=0.1, tries=3, seed=1, batch_size=8)
    x_adv = attack(model, x, zeros(x))
    assert torch.equal(x_adv, attack(model, x, zeros(x)))
    assert 0 < (model(x_adv).argmax(1) == 1).sum() < 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tries": 0}, r"tries must be an integer of at least 1, got 0"),
        ({"distribution": "normal"}, r"distribution must be uniform or gaussian, got 'normal'"),
        ({"norm": "l3"}, r"norm must be one of linf, l2, l1, got 'l3'"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Noise(**arguments)
