"""One step from strong noise, and no way back into the ball."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM
from lightning_advreg.attacks.nfgsm import NFGSM


class Asked:
    """A model that remembers at which images it was asked."""

    def __init__(self, model):
        self.model, self.images = model, []

    def __call__(self, x):
        self.images.append(x.detach().clone())
        return self.model(x)


def literal(net, x, y, *, eps, noise, alpha, seed):
    """Algorithm 1 of the paper, pixel by pixel, in the box."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        uniform = torch.rand_like(x)
    start = x.clone()
    for index in range(x.numel()):
        pixel = x.flatten()[index] + noise * eps * (2 * uniform.flatten()[index] - 1)
        start.view(-1)[index] = min(max(pixel, 0), 1)
    start.requires_grad_()
    nn.functional.cross_entropy(net(start), y).backward()
    x_adv = start.detach().clone()
    for index in range(x.numel()):
        step = alpha * float(start.grad.flatten()[index] > 0) - alpha * float(start.grad.flatten()[index] < 0)
        x_adv.view(-1)[index] = min(max(x_adv.flatten()[index] + step, 0), 1)
    net.zero_grad(set_to_none=True)
    return x_adv


@pytest.mark.parametrize(
    ("arguments", "noise", "alpha"),
    [({}, 2, 0.1), ({"noise": 1.0}, 1, 0.1), ({"step_size": 0.07}, 2, 0.07), ({"noise": 0}, 0, 0.1)],
    ids=repr,
)
def test_it_equals_the_algorithm(net, batch, arguments, noise, alpha):
    net, (x, y) = net.double(), (batch[0].double(), batch[1])
    expected = literal(net, x, y, eps=0.1, noise=noise, alpha=alpha, seed=3)
    torch.testing.assert_close(NFGSM(eps=0.1, seed=3, **arguments)(net, x, y), expected, atol=1e-12, rtol=0)


def test_it_leaves_the_ball_and_reaches_as_far_as_noise_and_step_together(net):
    x, y = torch.full((20, 3, 6, 6), 0.5), torch.arange(20) % 6
    moved = (NFGSM(eps=0.1)(net, x, y) - x).abs()
    # uniform noise of twice the budget and a step of either sign leave it with probability 1/2
    assert (moved > 0.1).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert 0.29 < moved.max() <= 0.3 + 1e-6
    moved = (NFGSM(eps=0.1, noise=0.5, step_size=0.2)(net, x, y) - x).abs()
    assert 0.24 < moved.max() <= 0.25 + 1e-6


def test_it_asks_about_images_alone_and_gives_images(net):
    x, y = torch.rand(5, 3, 6, 6).round(), torch.arange(5)
    model = Asked(net)
    x_adv = NFGSM(eps=0.3)(model, x, y)
    (asked,) = model.images
    for images in (asked, x_adv):
        assert images.min() == 0 and images.max() == 1
    # the step starts at the clipped point
    step = (x_adv - asked).abs()
    inside = (x_adv > 0) & (x_adv < 1)
    torch.testing.assert_close(step[inside], torch.full_like(step[inside], 0.3))
    assert (step <= 0.3 + 1e-6).all()


def test_noise_is_uniform_and_the_gradient_is_taken_there(net):
    x, y = torch.full((200, 3, 6, 6), 0.5), torch.arange(200) % 6
    model = Asked(net)
    NFGSM(eps=0.1)(model, x, y)
    noise = (model.images[0] - x) / 0.2
    assert noise.var().item() == pytest.approx(1 / 3, rel=0.03)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.abs().max().item() == pytest.approx(1, abs=1e-3)


def test_without_noise_it_is_fgsm(net, batch):
    assert torch.equal(NFGSM(eps=0.05, noise=0)(net, *batch), FGSM(eps=0.05)(net, *batch))


def test_a_budget_per_image_scales_noise_and_step(net, batch):
    x, y = batch
    eps = torch.tensor([0.0, 0.05, 0.1, 0.2, 0.4])
    for step_size in (None, 0.1):
        x_adv = NFGSM(eps=0.1, step_size=step_size, seed=1)(net, x, y, eps=eps)
        for index, budget in enumerate(eps.tolist()):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                start = (x + budget * 2 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)[index]
            torch.testing.assert_close((x_adv[index] - start).abs().max(), torch.tensor(budget))
        assert torch.equal(x_adv[0], x[0])


def test_scaling_and_other_losses(net, batch):
    half = NFGSM(eps=0.1, noise=1.5, step_size=0.04).scaled(0.5)
    assert (half.radius, half.noise, half.step_size) == (0.05, 1.5, 0.02)
    assert NFGSM(eps=0.1).scaled(0.5).step_size is None
    attack = NFGSM(eps=0.1, seed=0)
    for loss in ("margin", "dlr", "kl"):
        other = attack.maximising(loss)
        assert other == NFGSM(eps=0.1, seed=0, loss=loss)
        assert not torch.equal(other(net, *batch), attack(net, *batch))


def test_a_target_is_approached(net, batch):
    x, y = batch
    towards = NFGSM(eps=0.1, noise=0, targeted=True)(net, x, y)
    away = NFGSM(eps=0.1, noise=0)(net, x, y)
    inside = (away > 0) & (away < 1) & (towards > 0) & (towards < 1)
    torch.testing.assert_close((towards - x)[inside], (x - away)[inside])


def test_the_mode_of_the_network_is_the_one_asked_for(net, batch):
    net.train()
    before = net[1].running_mean.clone()
    NFGSM(seed=0)(net, *batch)
    assert torch.equal(net[1].running_mean, before)
    NFGSM(seed=0, model_mode="train")(net, *batch)
    assert not torch.equal(net[1].running_mean, before)


def test_half_precision_images_stay_in_the_box(net, batch):
    x = batch[0].bfloat16()
    x_adv = NFGSM(eps=0.3)(lambda z: net(z.float()), x, batch[1])
    assert x_adv.dtype == torch.bfloat16
    assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_evaluations_can_tell():
    assert NFGSM.keeps_budget is False
    with pytest.raises(TypeError, match="keeps_budget"):
        NFGSM(keeps_budget=True)


def test_bad_images_are_refused(net, batch):
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        NFGSM()(net, batch[0] * 255, batch[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": -1}, r"noise must be at least 0, got -1"),
        ({"step_size": "-1/255"}, r"step_size must be at least 0, got '-1/255'"),
        ({"norm": "l2"}, r"norm must be 'linf'.*got 'l2'; use FGSM\(norm='l2'"),
        ({"loss": "kl", "noise": 0}, r"loss 'kl' has a zero gradient at the clean image; set noise above 0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        NFGSM(**arguments)
