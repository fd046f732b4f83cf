import copy

import pytest
import torch
from torch import nn

from lightning_advreg.perturbations.sam import ASAM, SAM


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4))
    return model.double().train()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(5, 1, 6, 6).double(), torch.tensor([0, 1, 2, 3, 0])


def cross_entropy(net, batch):
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def literal_moves(net, batch, perturbation):
    """The formula, number by number; gradients as ``backward`` gives them on a copy."""
    proxy = copy.deepcopy(net)
    cross_entropy(proxy, batch).backward()
    adaptive = isinstance(perturbation, ASAM)
    rows = {name: (p.detach().flatten().tolist(), p.grad.flatten().tolist()) for name, p in proxy.named_parameters()}
    scaled = 0.0
    for weights, grads in rows.values():
        for w, g in zip(weights, grads, strict=True):
            t = abs(w) + perturbation.eta if adaptive else 1.0
            scaled += (t * g) ** 2
    moves = {}
    for (name, (weights, grads)), p in zip(rows.items(), proxy.parameters(), strict=True):
        move = []
        for w, g in zip(weights, grads, strict=True):
            t = abs(w) + perturbation.eta if adaptive else 1.0
            move.append(perturbation.rho * t**2 * g / scaled**0.5)
        moves[name] = torch.tensor(move, dtype=torch.float64).view_as(p)
    return moves, proxy


PERTURBATIONS = [SAM(rho=0.2), ASAM(rho="3/2", eta=0.03), ASAM(rho=0.5, eta=0)]


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=repr)
def test_every_parameter_moves_as_in_the_formula(net, batch, perturbation):
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    expected, _ = literal_moves(net, batch, perturbation)
    perturbation.climb_(net, lambda: cross_entropy(net, batch))
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter - before[name], expected[name], atol=1e-12, rtol=0)


def test_the_whole_move_of_sam_has_length_rho(net, batch):
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    SAM(rho=0.2).climb_(net, lambda: cross_entropy(net, batch))
    total = sum((p - before[name]).square().sum() for name, p in net.named_parameters()) ** 0.5
    assert total.item() == pytest.approx(0.2)


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=repr)
def test_steps_of_sgd_equal_a_literal_loop(net, batch, perturbation):
    reference = copy.deepcopy(net)
    velocity = {name: torch.zeros_like(p) for name, p in reference.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=0.01)
    for _ in range(3):
        climb = perturbation.climb_(net, lambda: cross_entropy(net, batch))
        with climb.at_the_top():
            loss = cross_entropy(net, batch)
        optimizer.zero_grad()
        loss.backward()
        climb.back_()
        optimizer.step()

        moves, first_pass = literal_moves(reference, batch, perturbation)
        moved = copy.deepcopy(reference)
        for name, parameter in moved.named_parameters():
            parameter.data += moves[name]
        moved.zero_grad()
        cross_entropy(moved, batch).backward()
        for (name, parameter), top in zip(reference.named_parameters(), moved.parameters(), strict=True):
            velocity[name] = 0.9 * velocity[name] + top.grad + 0.01 * parameter.detach()
            parameter.data -= 0.1 * velocity[name]
        # statistics follow the pass at w alone
        for buffer, other in zip(reference.buffers(), first_pass.buffers(), strict=True):
            buffer.copy_(other)
        for ours, theirs in zip(net.state_dict().values(), reference.state_dict().values(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    assert net[1].num_batches_tracked == 3


def test_statistics_are_left_alone_at_the_top_in_instance_norm_too(batch):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.InstanceNorm2d(3, track_running_stats=True), nn.Flatten()).double()
    climb = SAM().climb_(net, lambda: cross_entropy(net, batch))
    once = net[1].running_mean.clone()
    assert once.any()
    with climb.at_the_top():
        net(batch[0])
    assert torch.equal(net[1].running_mean, once)


def test_a_frozen_layer_stays_frozen_in_both_passes(net, batch):
    net[1].eval()
    climb = SAM().climb_(net, lambda: cross_entropy(net, batch))
    with climb.at_the_top():
        cross_entropy(net, batch)
    assert net[1].num_batches_tracked == 0
    assert [module.training for module in net] == [True, False, True, True, True]


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=repr)
def test_zero_gradients_move_nothing(net, batch, perturbation):
    before = [p.detach().clone() for p in net.parameters()]
    perturbation.climb_(net, lambda: cross_entropy(net, batch) * 0)
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


def test_frozen_parameters_count_for_nothing(net, batch):
    net[0].requires_grad_(False)
    frozen = net[0].weight.clone()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    SAM(rho=0.2).climb_(net, lambda: cross_entropy(net, batch))
    total = sum((p - before[name]).square().sum() for name, p in net.named_parameters()) ** 0.5
    assert total.item() == pytest.approx(0.2)
    assert torch.equal(net[0].weight, frozen)


def test_asam_does_not_depend_on_how_scale_is_spread_over_layers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3, bias=False)).double()
    x, y = torch.rand(4, 6).double(), torch.tensor([0, 1, 2, 0])
    scaled = copy.deepcopy(net)
    scaled[0].weight.data *= 10
    scaled[2].weight.data /= 10

    def at_the_top(model, perturbation):
        model = copy.deepcopy(model)
        perturbation.climb_(model, lambda: cross_entropy(model, (x, y)))
        return model(x)

    adaptive = ASAM(rho=0.5, eta=0)
    torch.testing.assert_close(at_the_top(net, adaptive), at_the_top(scaled, adaptive))
    assert not torch.allclose(at_the_top(net, SAM()), at_the_top(scaled, SAM()))


@pytest.mark.parametrize(("cls", "name"), [(SAM, "rho"), (ASAM, "rho"), (ASAM, "eta")])
def test_bad_arguments_are_named(cls, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
        cls(**{name: -1})
    with pytest.raises(ValueError, match=f"{name} must be a number"):
        cls(**{name: "wide"})


def test_defaults_are_those_of_the_papers():
    assert (SAM().rho, ASAM().rho, ASAM().eta) == (0.05, 0.5, 0.01)
