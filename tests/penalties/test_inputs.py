"""Penalties on gradients by the image: values, gradients, and the passes that they take."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_advreg.penalties import ConfidencePenalty, InputGradient, Jacobian, TrainingPass

PENALTIES = {"gradient": InputGradient(0.7), "jacobian": Jacobian(0.7, projections=None)}
each = pytest.mark.parametrize("name", PENALTIES)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(5, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def input_gradient(net, x, y):
    """By central differences, image by image and pixel by pixel."""
    total, h = 0, 1e-5
    for image, label in zip(x, y, strict=True):
        for pixel in torch.eye(6, dtype=x.dtype):
            up, down = (F.cross_entropy(net(image + s * h * pixel), label) for s in (1, -1))
            total = total + ((up - down) / (2 * h)) ** 2
    return 0.7 * total / len(x)


def jacobian(net, x, y):
    total, h = 0, 1e-5
    for image in x:
        for pixel in torch.eye(6, dtype=x.dtype):
            total = total + ((net(image + h * pixel) - net(image - h * pixel)) / (2 * h)).square().sum()
    return 0.35 * total / len(x)


REFERENCES = {"gradient": input_gradient, "jacobian": jacobian}


@each
def test_value_and_gradient_equal_finite_differences(name, batch):
    net = mlp()
    expected = REFERENCES[name](net, *batch)
    value = PENALTIES[name](net, *batch)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    weights = list(net.parameters())[:3]
    for ours, theirs in zip(torch.autograd.grad(value, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("projections", [1, 3])
def test_random_projections_estimate_the_jacobian_without_bias(projections, batch):
    net = mlp()
    exact = Jacobian(1.0, projections=None)(net, *batch).item()
    torch.manual_seed(0)
    x, y = (t.repeat_interleave(2000, 0) for t in batch)
    estimate = Jacobian(1.0, projections=projections)(net, x, y).item()
    assert estimate == pytest.approx(exact, rel=0.03)
    assert estimate != pytest.approx(exact, rel=1e-6)


def counting(net):
    calls = []
    net.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    return calls


@each
def test_a_step_gives_the_pass_it_has(name, batch):
    net, (x, y) = mlp(), batch
    expected = PENALTIES[name](net, x, y)
    calls = counting(net)
    leaf = x.clone().requires_grad_()
    terms = PENALTIES[name].terms_of(TrainingPass(net, leaf, y, net(leaf)))
    assert calls == [5]
    torch.testing.assert_close(PENALTIES[name].weigh(terms).value, expected)


@each
@pytest.mark.parametrize("missing", ["logits", "graph", "leaf"])
def test_a_step_without_a_usable_pass_gets_one_for_all_penalties(name, missing, batch):
    net, (x, y) = mlp(), batch
    expected = PENALTIES[name](net, x, y)
    logits = {"logits": None, "graph": net(x).detach(), "leaf": net(x)}[missing]
    calls = counting(net)
    step = TrainingPass(net, x, y, logits)
    torch.testing.assert_close(PENALTIES[name].weigh(PENALTIES[name].terms_of(step)).value, expected)
    PENALTIES[name].terms_of(step)
    assert calls == [5]
    (entropy,) = ConfidencePenalty(1.0).terms_of(step)
    assert entropy.requires_grad and calls == [5]


@each
def test_a_pass_of_its_own_leaves_running_statistics_alone(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    PENALTIES[name](net, torch.rand(4, 1, 4, 4), torch.arange(4) % 3).backward()
    assert net.training
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


@each
def test_values_without_gradients(name, batch):
    net = mlp()
    expected = PENALTIES[name](net, *batch)
    with torch.no_grad():
        value = PENALTIES[name](net, *batch)
    torch.testing.assert_close(value, expected.detach())
    assert not value.requires_grad
    assert batch[0].grad is None and not batch[0].requires_grad


@each
def test_autocast_changes_little(name, batch):
    net, x = mlp().float(), batch[0].float()
    wide = PENALTIES[name](net, x, batch[1])
    with torch.autocast("cpu", torch.bfloat16):
        half = PENALTIES[name](net, x, batch[1])
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, wide, rtol=0.1, atol=0)
    half.backward()
    assert all(p.grad.isfinite().all() for p in list(net.parameters())[:3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InputGradient(-1), "weight must be at least 0, got -1"),
        (lambda: Jacobian("-1/2"), "weight must be at least 0, got '-1/2'"),
        (lambda: Jacobian(1, projections=0), "projections must be an integer of at least 1, or None"),
        (lambda: Jacobian(1, projections=1.5), "projections must be an integer of at least 1, or None"),
        (lambda: InputGradient(1).terms_of(TrainingPass(mlp())), "needs the images of a training step"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
