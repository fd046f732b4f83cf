import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_advreg.constraints import CubicSparsity, MagnitudePruning
from lightning_advreg.schedules import Constant, Piecewise, Ramp

from .layers import LAYERS, randomised, values


def net_of_two():
    return randomised(nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 4)))


@settings(max_examples=40, deadline=None)
@given(
    layer=st.sampled_from(sorted(LAYERS)),
    sparsity=st.floats(0, 0.99),
    granularity=st.sampled_from(["weight", "unit"]),
    scope=st.sampled_from(["layer", "network"]),
    seed=st.integers(0, 2**16),
)
def test_the_smallest_are_pruned_exactly_as_many_as_asked_and_once(layer, sparsity, granularity, scope, seed):
    make, rows = LAYERS[layer]
    net = randomised(make(), seed=seed)
    before = rows(net.weight.detach().clone())
    constraint = MagnitudePruning(sparsity, granularity=granularity, scope=scope)
    projected = constraint.project_(net)
    after = rows(net.weight.detach())
    sizes = before.abs().flatten() if granularity == "weight" else before.norm(dim=1)
    zeros = (after == 0).flatten() if granularity == "weight" else (after == 0).all(1)
    count = math.floor(sparsity * len(sizes) + 0.5)
    if granularity == "unit":
        count = min(count, len(sizes) - 1)
    assert zeros.sum() == count
    assert count in (0, len(sizes)) or sizes[zeros].max() <= sizes[~zeros].min()
    kept = (after != 0) if granularity == "weight" else (~zeros).unsqueeze(1).expand_as(after)
    assert torch.equal(after[kept], before[kept])
    assert float(projected.at_bound) == pytest.approx(count / len(sizes), abs=1e-6)
    assert projected.moved == pytest.approx(count / len(sizes))
    assert projected.distance == pytest.approx(((before - after).norm() / before.norm()).item(), abs=1e-6)
    once = values(net)
    again = constraint.project_(net)
    assert torch.equal(values(net), once)
    assert (again.moved, again.distance) == (0, 0)


def test_over_the_network_small_layers_lose_more():
    net = net_of_two()
    with torch.no_grad():
        net[1].weight.mul_(0.01)
    MagnitudePruning(0.5, scope="network").project_(net)
    total = net[0].weight.numel() + net[1].weight.numel()
    assert (net[1].weight == 0).all()
    assert (net[0].weight == 0).sum() == total // 2 - net[1].weight.numel()
    net = net_of_two()
    with torch.no_grad():
        net[1].weight.mul_(0.01)
    MagnitudePruning(0.75, granularity="unit", scope="network").project_(net)
    # one unit stays even so
    assert (net[1].weight != 0).any(1).sum() == 1


def test_units_of_different_fan_in_are_compared_by_their_mean_square():
    net = nn.Sequential(nn.Linear(100, 2, bias=False), nn.Linear(2, 2, bias=False))
    nn.init.constant_(net[0].weight, 0.5)  # a norm of 5
    nn.init.constant_(net[1].weight, 1.0)  # a norm of 1.4
    MagnitudePruning(0.25, granularity="unit", scope="network").project_(net)
    assert (net[0].weight != 0).any(1).tolist() == [False, True]
    assert (net[1].weight != 0).all()


def test_what_is_pruned_stays_pruned_whatever_steps_make_of_it():
    net = net_of_two()
    constraint = MagnitudePruning(0.5)
    constraint.project_(net)
    zeros = [p.detach() == 0 for p in (net[0].weight, net[1].weight)]
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.where(p == 0, 100.0, 0.001))
    projected = constraint.project_(net)
    assert all(torch.equal(p.detach() == 0, z) for p, z in zip((net[0].weight, net[1].weight), zeros, strict=True))
    assert projected.moved == 0.5
    assert projected.distance > 0.99


def test_sparsity_follows_its_schedule_by_intervals_and_never_back():
    net = net_of_two()
    schedule = Piecewise(milestones=[(0, 0), (1, 0.5), (2, 0.25)], between="linear")
    constraint = MagnitudePruning(schedule, interval=0.5)
    found = []
    for epoch in (0, 0.4, 0.5, 0.9, 1.0, 1.6, 2.0, 3.0):
        projected = constraint.project_(net, epoch=epoch)
        found.append((round(float(projected.bound), 3), round((net[0].weight == 0).float().mean().item(), 3)))
    assert found[:5] == [(0, 0), (0, 0), (0.25, 0.25), (0.25, 0.25), (0.5, 0.5)]
    assert found[5:] == [(0.375, 0.5), (0.25, 0.5), (0.25, 0.5)]


def test_intervals_that_binary_fractions_miss_still_begin_on_time():
    constraint = MagnitudePruning(Ramp(epochs=1, end=0.9), interval=0.1)
    targets = [constraint._target(step / 10) for step in range(11)]
    assert targets == pytest.approx([0.09 * step for step in range(11)])


def test_cubic_sparsity_is_the_formula():
    schedule = CubicSparsity(start="1/10", end=0.9, epochs=8, start_epoch=1)
    for epoch in (1.0, 2.5, 8.99):
        expected = 0.9 + (0.1 - 0.9) * (1 - (epoch - 1) / 8) ** 3
        assert schedule.value(epoch) == pytest.approx(expected)
    assert [schedule.value(epoch) for epoch in (0, 9, math.inf)] == [0.1, 0.9, 0.9]
    assert CubicSparsity(end=0.5, epochs=0).value(0) == 0.5
    assert schedule.bounds == (0.1, 0.9)


@pytest.mark.parametrize("granularity", ["weight", "unit"])
def test_masks_are_saved_and_go_on_exactly(granularity):
    def steps(constraint, net, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            with torch.no_grad():
                for p in net.parameters():
                    p.add_(0.3 * torch.randn(p.shape, generator=generator))
            constraint.project_(net, epoch=step / 7)

    def make():
        return MagnitudePruning(CubicSparsity(end=0.8, epochs=2), granularity=granularity, interval=0.5)

    whole, net = make(), net_of_two()
    steps(whole, net, 0, 14)
    part, stopped = make(), net_of_two()
    steps(part, stopped, 0, 6)
    resumed, loaded = make(), net_of_two()
    resumed.load_state_dict(part.state_dict())
    loaded.load_state_dict(stopped.state_dict())
    steps(resumed, loaded, 6, 14)
    assert torch.equal(values(net), values(loaded))
    assert all(torch.equal(whole.state_dict()[key], value) for key, value in resumed.state_dict().items())
    assert resumed.state_dict()["kept/0/weight"].dtype == torch.bool


def test_loading_other_masks_makes_them_count():
    nets = [net_of_two(), randomised(nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 4)), seed=5)]
    constraints = [MagnitudePruning(0.5) for _ in nets]
    for constraint, net in zip(constraints, nets, strict=True):
        constraint.project_(net)
    constraints[0].load_state_dict(constraints[1].state_dict())
    constraints[0].project_(nets[0])
    assert (nets[0][0].weight[nets[1][0].weight == 0] == 0).all()


def test_an_average_is_pruned_on_request():
    net, average = net_of_two(), net_of_two()
    constraint = MagnitudePruning(0.5)
    constraint.project_(net)
    constraint.mask_(average)
    assert torch.equal(values(average), values(net))


def test_biases_and_what_a_pattern_leaves_out_stay():
    net = net_of_two()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    MagnitudePruning(0.9, granularity="unit", pattern="0.*").project_(net)
    changed = [name for name, p in net.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["0.weight"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1}, "sparsity must be less than 1, got 1"),
        ({"sparsity": -0.1}, "sparsity must be at least 0, got -0.1"),
        ({"sparsity": Constant(1)}, "sparsity must be at least 0 and less than 1, got 1 from Constant"),
        ({"sparsity": Ramp(epochs=1, start=-1)}, "sparsity must be at least 0, got -1 from Ramp"),
        ({"sparsity": 0.5, "granularity": "row"}, "granularity must be weight or unit, got 'row'"),
        ({"sparsity": 0.5, "scope": "global"}, "scope must be layer or network, got 'global'"),
        ({"sparsity": 0.5, "interval": 0}, "interval must be positive, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MagnitudePruning(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"end": 1, "epochs": 1}, "end must be less than 1, got 1"),
        ({"end": 0.5, "epochs": 1, "start": 0.6}, "start must be at most 0.5, got 0.6"),
        ({"end": 0.5, "epochs": -1}, "epochs must be at least 0, got -1"),
    ],
)
def test_bad_schedules_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CubicSparsity(**arguments)


def test_a_resumed_run_takes_no_second_look_within_an_interval():
    whole, net = MagnitudePruning(0.75, granularity="unit", scope="network"), net_of_two()
    with torch.no_grad():
        net[1].weight.mul_(0.01)
    whole.project_(net)
    with torch.no_grad():
        # the one unit that stays in its layer, and would not be the next to go any more
        net[1].weight.mul_(1e4)
    resumed, loaded = MagnitudePruning(0.75, granularity="unit", scope="network"), net_of_two()
    resumed.load_state_dict(whole.state_dict())
    loaded.load_state_dict(net.state_dict())
    for constraint, each in ((whole, net), (resumed, loaded)):
        constraint.project_(each)
    assert torch.equal(values(net), values(loaded))
