import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_advreg.perturbations.awp import AWP


class Net(nn.Module):
    """Everything that AWP must tell apart: kernels, biases, BatchNorm, a LayerNorm over (C, H, W), a frozen layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.ln = nn.LayerNorm((3, 4, 4))
        self.token = nn.Parameter(torch.rand(1, 48))
        self.hidden = nn.Linear(48, 6)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.out = nn.Linear(6, 4)

    def forward(self, x):
        h = self.ln(torch.tanh(self.bn(self.conv(x)))).flatten(1) + self.token
        return self.out(self.frozen(torch.tanh(self.hidden(h))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().double().train()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(5, 1, 6, 6).double(), torch.tensor([0, 1, 2, 3, 0])


MOVING = ["conv.weight", "hidden.weight", "out.weight"]


def cross_entropy(net, batch):
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def literal_climb(net, batch, gamma):
    """Move the three kernels of a copy along normalised gradients, written out."""
    proxy = copy.deepcopy(net)
    cross_entropy(proxy, batch).backward()
    weights = dict(net.named_parameters())
    moves = {}
    for name, parameter in proxy.named_parameters():
        if name in MOVING:
            size = sum(w**2 for w in weights[name].detach().flatten().tolist()) ** 0.5
            steepness = sum(g**2 for g in parameter.grad.flatten().tolist()) ** 0.5
            moves[name] = gamma * size / steepness * parameter.grad
    return moves


def values(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def test_kernels_move_as_in_the_formula_and_nothing_else_does(net, batch):
    before, expected = values(net), literal_climb(net, batch, 0.02)
    AWP(gamma="1/50").climb_(net, lambda: cross_entropy(net, batch))
    for name, now in values(net).items():
        if name in expected:
            torch.testing.assert_close(now - before[name], expected[name], atol=1e-12, rtol=0)
            assert (now - before[name]).norm() == pytest.approx(0.02 * before[name].norm().item())
        else:
            assert torch.equal(now, before[name])


def test_one_step_of_sgd_equals_the_loop_of_the_paper(net, batch):
    reference = copy.deepcopy(net)
    velocity = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1, 0.9, weight_decay=0.01)
    for _ in range(3):
        climb = AWP(gamma=0.05).climb_(net, lambda: cross_entropy(net, batch))
        with climb.at_the_top():
            loss = cross_entropy(net, batch)
        optimizer.zero_grad()
        loss.backward()
        climb.back_()
        optimizer.step()

        moves = literal_climb(reference, batch, 0.05)
        moved = copy.deepcopy(reference)
        for name, parameter in moved.named_parameters():
            parameter.data += moves.get(name, 0)
        moved.zero_grad()
        cross_entropy(moved, batch).backward()
        for (name, parameter), top in zip(reference.named_parameters(), moved.parameters(), strict=True):
            if parameter.requires_grad:
                velocity[name] = 0.9 * velocity[name] + top.grad + 0.01 * parameter.detach()
                parameter.data -= 0.1 * velocity[name]
        for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
        # statistics follow the pass at w + v, once
        for buffer, other in zip(reference.buffers(), moved.buffers(), strict=True):
            buffer.copy_(other)
        for ours, theirs in zip(net.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_the_climb_leaves_batch_norm_and_gradients_alone(net, batch):
    net.bn.running_mean.fill_(0.3)
    climb = AWP().climb_(net, lambda: cross_entropy(net, batch))
    assert net.bn.running_mean.tolist() == [0.3] * 3
    assert net.bn.num_batches_tracked == 0
    assert all(p.grad is None for p in net.parameters())
    assert net.bn.track_running_stats
    with climb.at_the_top():
        net(batch[0])
    torch.testing.assert_close(net.bn.running_mean, 0.27 + 0.1 * net.conv(batch[0]).mean((0, 2, 3)))


def test_the_way_back_is_exact(net, batch):
    before = values(net)
    climb = AWP(gamma=0.3).climb_(net, lambda: cross_entropy(net, batch))
    climb.back_()
    assert all(torch.equal(now, before[name]) for name, now in values(net).items())
    net.out.weight.data.add_(1)
    climb.back_()
    assert torch.equal(net.out.weight, before["out.weight"] + 1)


def test_zero_gradients_and_zero_weights_do_not_move(net, batch):
    before = values(net)
    AWP().climb_(net, lambda: cross_entropy(net, batch) * 0)
    assert all(torch.equal(now, before[name]) for name, now in values(net).items())
    # a layer that the loss does not depend on
    AWP().climb_(net, lambda: net.out.weight.sum())
    assert torch.equal(net.hidden.weight, before["hidden.weight"])
    nn.init.zeros_(net.hidden.weight)
    AWP().climb_(net, lambda: cross_entropy(net, batch))
    assert not net.hidden.weight.any()


@pytest.mark.parametrize("scale", [1e-9, 1e9])
def test_the_scale_of_the_loss_does_not_matter(net, batch, scale):
    expected = literal_climb(net, batch, 0.01)
    net.float()
    before = values(net)
    x, y = batch[0].float(), batch[1]
    AWP(gamma=0.01).climb_(net, lambda: scale * cross_entropy(net, (x, y)))
    for name in MOVING:
        move = dict(net.named_parameters())[name].detach() - before[name]
        torch.testing.assert_close(move, expected[name].float(), atol=1e-6, rtol=1e-2)


def test_parametrised_weights_move():
    torch.manual_seed(0)
    net = weight_norm(nn.Linear(4, 3))
    before = values(net)
    AWP().climb_(net, lambda: net(torch.rand(2, 4)).square().sum())
    moved = [name for name, now in values(net).items() if not torch.equal(now, before[name])]
    assert moved == ["parametrizations.weight.original0", "parametrizations.weight.original1"]


@pytest.mark.parametrize("cached", [True, False])
def test_autocast_sees_the_moved_weights_and_those_put_back(cached):
    torch.manual_seed(0)
    net, x = nn.Linear(8, 4), torch.rand(3, 8)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
        first = net(x)
        climb = AWP(gamma=0.5).climb_(net, lambda: net(x).square().sum())
        moved = net(x)
        with torch.autocast("cpu", enabled=False):
            torch.testing.assert_close(moved.float(), net(x), atol=0.05, rtol=0)
        assert (moved - first).abs().max() > 0.1
        climb.back_()
        assert torch.equal(net(x), first)


def test_an_error_at_the_top_puts_the_weights_back(net, batch):
    before = values(net)
    climb = AWP().climb_(net, lambda: cross_entropy(net, batch))
    with pytest.raises(KeyboardInterrupt), climb.at_the_top():
        raise KeyboardInterrupt
    assert all(torch.equal(now, before[name]) for name, now in values(net).items())


def test_a_network_in_eval_mode_stays_in_it(net, batch):
    net.eval()
    climb = AWP().climb_(net, lambda: cross_entropy(net, batch))
    with climb.at_the_top():
        assert not any(module.training for module in net.modules())
    assert net.bn.num_batches_tracked == 0


def test_bad_arguments_are_named(net):
    with pytest.raises(ValueError, match=r"gamma must be at least 0, got -0\.1"):
        AWP(gamma=-0.1)
    with pytest.raises(ValueError, match="start_epoch must be at least 0, got -1"):
        AWP(start_epoch=-1)
    with pytest.raises(ValueError, match="AWP finds no weights to move in Net; unfreeze some"):
        AWP().climb_(net.requires_grad_(False), lambda: torch.zeros(()))
