"""The networks and attacks that GradAlign takes, those it refuses, and what it leaves behind."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM, PGD, Attack
from lightning_advreg.objectives.gradalign import GradAlign

EPS = 0.1


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).double().train()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 1, 6, 6).double(), torch.tensor([0, 1, 2, 3, 4, 0])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        tokens = self.layer(x.flatten(1, 2)).unsqueeze(1)
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).mean((1, 2))


def test_fused_attention_is_differentiated_twice(batch):
    torch.manual_seed(0)
    net, x = Attention(), batch[0].float()
    loss = GradAlign()(net, x, batch[1], FGSM(eps=EPS)).loss
    loss.backward()
    assert net.layer.weight.grad.abs().sum() > 0


class Compiled(torch.autograd.Function):
    """As torch.compile does it: the first derivative is a function that refuses to be differentiated."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x.flatten(1) @ weight

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return Refusing.apply(grad, weight).view_as(x), x.flatten(1).T @ grad


class Refusing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad, weight):
        return grad @ weight.T

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("no double backward")


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad


class Detached(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        return x.flatten(1) @ weight

    @staticmethod
    def backward(ctx, grad):
        return torch.ones(len(grad), 1, 6, 6, dtype=grad.dtype), None


class Through(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(36, 5).double())
        self.function = function

    def forward(self, x):
        return self.function(x, self.weight)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (Compiled.apply, "no double backward"),
        (lambda x, w: Once.apply(x.flatten(1)) @ w, "does not depend on the weights"),
        (Detached.apply, "does not depend on the weights"),
    ],
    ids=["compiled", "once", "detached"],
)
def test_networks_that_are_not_twice_differentiable_are_named(function, reason, batch):
    net = Through(function)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=rf"differentiates the gradient.*Through.*{reason}.*NFGSM\(\)"):
            GradAlign()(net, *batch, FGSM(eps=EPS))


def test_the_value_can_be_had_without_gradients(net, batch):
    torch.manual_seed(5)
    expected = GradAlign()(net, *batch, FGSM(eps=EPS)).loss
    with torch.no_grad():
        torch.manual_seed(5)
        loss = GradAlign()(net, *batch, FGSM(eps=EPS)).loss
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected.detach())


def test_a_training_step_leaves_no_gradients_behind(net, batch):
    GradAlign()(net, *batch, FGSM(eps=EPS))
    assert all(p.grad is None for p in net.parameters())


def test_a_checking_attack_checks_shared_batches_too(net, batch):
    x, y = batch
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        GradAlign()(net, x * 255, y, FGSM(eps=EPS))
    assert GradAlign()(net, x * 1.5, y, FGSM(eps=EPS, check=False)).loss.isfinite()


class Shift(Attack):
    def __call__(self, model, x, y):
        return x


@pytest.mark.parametrize("attack", [FGSM(norm="l2", eps=1.0), PGD(norm="l2", eps=1.0)])
def test_attacks_in_other_norms_are_refused(net, batch, attack):
    with pytest.raises(ValueError, match="GradAlign is defined for attacks in 'linf', got norm 'l2'"):
        GradAlign()(net, *batch, attack)


def test_attacks_without_a_budget_are_refused(net, batch):
    with pytest.raises(TypeError, match=r"GradAlign needs the budget of the attack.*`radius`"):
        GradAlign()(net, *batch, Shift())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight": -1}, r"weight must be at least 0, got -1"),
        ({"weight": 0}, r"weight must be above 0, got 0; .* PGDAT\(\)"),
        ({"weight": "much"}, r"weight must be a number"),
        ({"label_smoothing": 1}, r"label_smoothing must be less than 1, got 1"),
        ({"label_smoothing": -0.1}, r"label_smoothing must be at least 0, got -0.1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradAlign(**arguments)
    assert GradAlign(weight="1/5").weight == 0.2
