"""One backward pass for weights and images, and a perturbation that goes from batch to batch."""

import copy

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM
from lightning_advreg.objectives.free import FreeAT

from .replaying import ATTACK, EPS, RATE, REPLAYS, batches, images, literal, network, settled, train


@pytest.fixture
def net():
    return network().double().train()


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
@pytest.mark.parametrize("sizes", [[6, 6, 6], [6, 6, 2, 6]], ids=["even", "a smaller batch"])
def test_losses_weights_and_perturbation_equal_the_algorithm(net, sizes, smoothing):
    reference, data = copy.deepcopy(net), batches(sizes)
    expected, delta = literal(reference, data, [RATE] * len(sizes), smoothing=smoothing)
    objective = FreeAT(replays=REPLAYS, label_smoothing=smoothing)
    losses = train(net, objective, data)
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), atol=1e-10, rtol=0)
    for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    torch.testing.assert_close(settled(objective), delta)


def test_rows_beyond_a_smaller_batch_wait(net):
    objective, data = FreeAT(replays=1), batches([6, 2])
    train(net, objective, data[:1])
    before = settled(objective).clone()
    assert (before.abs() == EPS).all()
    train(net, objective, data[1:])
    after = settled(objective)
    assert after.shape == before.shape
    assert torch.equal(after[2:], before[2:])
    assert not torch.equal(after[:2], before[:2])


def test_a_larger_batch_starts_its_new_rows_at_zero(net):
    objective, ((x, y), (more, labels)) = FreeAT(replays=1), batches([2, 6])
    train(net, objective, [(x, y)])
    before = settled(objective).clone()
    (x_adv,) = objective.craft(net, more, labels, ATTACK)
    torch.testing.assert_close(x_adv[:2], (more[:2] + before).clamp(0, 1))
    assert torch.equal(x_adv[2:], more[2:])


class Passes(torch.autograd.Function):
    forwards = backwards = 0

    @staticmethod
    def forward(ctx, x):
        Passes.forwards += 1
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Passes.backwards += 1
        return grad


def test_a_replay_costs_one_pass_forward_and_one_back(net):
    model = nn.Sequential(Lambda(Passes.apply), *net)
    Passes.forwards = Passes.backwards = 0
    train(model, FreeAT(replays=4), batches([6, 6]))
    assert (Passes.forwards, Passes.backwards) == (8, 8)


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("without", ["backward", "autograd.grad", "no_grad"])
def test_nothing_moves_without_a_backward_pass(net, without):
    objective, ((x, y),) = FreeAT(), batches([6])
    train(net, objective, [(x, y)])
    before = settled(objective).clone()
    with torch.set_grad_enabled(without != "no_grad"):
        loss = objective(net, x, y, ATTACK).loss
    if without == "autograd.grad":
        torch.autograd.grad(loss, list(net.parameters()))
    assert torch.equal(settled(objective), before)
    objective(net, x, y, ATTACK)
    assert torch.equal(settled(objective), before)


def test_a_first_pass_for_the_weights_alone_does_not_move_it_twice(net):
    """As AWP and SAM do it: craft once, take the loss twice."""
    objective, ((x, y),) = FreeAT(), batches([6])
    crafted = objective.craft(net, x, y, ATTACK)
    torch.autograd.grad(objective.loss(net, x, y, crafted).loss, list(net.parameters()))
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(-1)
    loss = objective.loss(net, x, y, crafted).loss
    (there,) = torch.autograd.grad(loss, crafted, retain_graph=True)
    loss.backward()
    torch.testing.assert_close(settled(objective), EPS * there.sign())


@pytest.mark.parametrize("scale", [2.0**16, 1e-6])
def test_a_scaled_loss_moves_it_as_far(net, scale):
    objective, ((x, y),) = FreeAT(), batches([6])
    plain = FreeAT()
    plain(net, x, y, ATTACK).loss.backward()
    (scale * objective(net, x, y, ATTACK).loss).backward()
    assert torch.equal(settled(objective), settled(plain))


def test_an_overflow_leaves_no_undefined_pixel(net):
    objective, ((x, y),) = FreeAT(), batches([6])
    (torch.inf * objective(net, x, y, ATTACK).loss).backward()
    assert settled(objective).isfinite().all()
    (torch.nan * objective(net, x, y, ATTACK).loss).backward()
    assert settled(objective).isfinite().all()


def test_it_stays_within_the_budget_of_the_moment(net):
    """During a warm-up eps grows; a move belongs to the budget under which its gradient was taken."""
    objective, ((x, y),) = FreeAT(), batches([6])
    for eps in (0.1, 0.3, 0.05):
        output = objective.craft(net, x, y, FGSM(eps=eps))
        assert (output[0] - x).abs().max() <= eps + 1e-12
        objective.loss(net, x, y, output).loss.backward()
        assert settled(objective).abs().max() == pytest.approx(eps)
    train(net, objective, [(x, y)], FGSM(eps=0))
    (x_adv,) = objective.craft(net, x, y, FGSM(eps=0))
    assert torch.equal(x_adv, x)


def test_pixels_cut_by_the_box_still_turn():
    """A black pixel whose perturbation points below 0 comes back when the gradient turns."""
    objective, model = FreeAT(), nn.Flatten()
    x, y = torch.tensor([[[[0.0, 0.5]]]]), torch.tensor([0])
    for label in (y, 1 - y):
        objective(model, x, label, ATTACK).loss.backward()
    # the first step moved by (-eps, eps), the second back by (eps, -eps)
    torch.testing.assert_close(settled(objective), torch.zeros_like(x))


def test_half_precision_images_stay_within_the_budget():
    objective, net = FreeAT(), network()
    x, y = images(6)
    half = x.bfloat16()
    for _ in range(3):
        (x_adv,) = crafted = objective.craft(net, half, y, ATTACK)
        objective.loss(lambda z: net(z.float()), half, y, crafted).loss.backward()
        assert x_adv.dtype == torch.bfloat16
        assert (x_adv.float() - half.float()).abs().max() <= EPS
    assert settled(objective).dtype == torch.float32
