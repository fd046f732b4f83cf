import pytest
import torch
from torch import nn

from lightning_advreg.constraints import Constraint, MaxNorm, NonNegative, WeightClip
from lightning_advreg.schedules import Ramp

from .layers import LAYERS, randomised, values

every_layer = pytest.mark.parametrize(("make", "rows"), LAYERS.values(), ids=LAYERS)


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_max_norm_projects_each_unit_onto_its_ball(make, rows, dtype, layout):
    layer = randomised(make()).to(dtype)
    if layout == "channels_last" and layer.weight.dim() == 4:
        layer.to(memory_format=torch.channels_last)
    before = rows(layer.weight.detach().clone())
    norms = before.norm(dim=1)
    bound = norms.sort().values[2:4].mean().item()  # some units above, some below
    other = [p.detach().clone() for name, p in layer.named_parameters() if name != "weight"]

    MaxNorm(bound).project_(layer)
    after = rows(layer.weight.detach())
    assert (after.norm(dim=1) <= bound + 1e-6).all()
    above = norms > bound
    assert 0 < above.sum() < len(norms)
    assert torch.equal(after[~above], before[~above])
    torch.testing.assert_close(after[above], bound * before[above] / norms[above].unsqueeze(1), atol=1e-6, rtol=0)
    assert all(torch.equal(p, q) for p, q in zip(other, list(layer.parameters())[1:], strict=True))
    once = layer.weight.detach().clone()
    MaxNorm(bound).project_(layer)
    torch.testing.assert_close(layer.weight.detach(), once, atol=1e-6, rtol=0)


@every_layer
@pytest.mark.parametrize(
    "constraint", [MaxNorm(0.8), WeightClip(0.2), NonNegative()], ids=["max-norm", "clip", "non-negative"]
)
def test_the_projection_is_the_nearest_feasible_point(make, rows, constraint):
    layer = randomised(make()).double()
    start = layer.weight.detach().clone()
    constraint.project_(layer)
    nearest = layer.weight.detach().clone()
    assert not torch.equal(nearest, start)
    for _ in range(50):
        with torch.no_grad():
            layer.weight.copy_(nearest + 0.3 * torch.randn_like(nearest))
        if isinstance(constraint, MaxNorm):
            assert (rows(layer.weight.detach()).norm(dim=1) > 0.8).any()
        constraint.project_(layer)  # a random feasible point near the one found
        feasible = layer.weight.detach()
        assert ((start - nearest) * (feasible - nearest)).sum() <= 1e-9


def test_a_unit_of_zeros_stays_zero():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    MaxNorm(1).project_(layer)
    assert torch.equal(layer.weight, torch.zeros(2, 3))


def test_weight_clip_clamps_each_weight():
    layer = randomised(nn.Conv2d(2, 4, 3))
    before = layer.weight.detach().clone()
    bias = layer.bias.detach().clone()
    WeightClip("1/100").project_(layer)
    assert torch.equal(layer.weight, before.clamp(-0.01, 0.01))
    assert torch.equal(layer.bias, bias)


@pytest.mark.parametrize("constraint", [MaxNorm, WeightClip])
def test_biases_and_norm_scales_are_included_on_request(constraint):
    def make():
        return randomised(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.LayerNorm((2, 3))), scale=5)

    vectors = ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias"]
    net, reference = make(), dict(make().named_parameters())
    constraint(0.5).project_(net)
    assert all(torch.equal(net.get_parameter(name), reference[name]) for name in vectors)
    constraint(0.5, include_biases=True).project_(net)
    for name in vectors[:3]:
        torch.testing.assert_close(net.get_parameter(name), reference[name].clamp(-0.5, 0.5), atol=1e-6, rtol=0)
    assert all(not torch.equal(net.get_parameter(name), reference[name]) for name in vectors)


@pytest.mark.parametrize("constraint", [MaxNorm(0.1), WeightClip(0.01), NonNegative()])
def test_frozen_weights_are_left_alone(constraint):
    net = randomised(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    net[0].weight.requires_grad_(False)
    before = [p.detach().clone() for p in net.parameters()]
    constraint.project_(net)
    assert torch.equal(net[0].weight, before[0])
    assert not torch.equal(net[1].weight, before[2])


@pytest.mark.parametrize("constraint", [MaxNorm, WeightClip])
@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (0, "bound must be positive, got 0"),
        ("-1", "bound must be positive, got '-1'"),
        ("wide", "bound must be a number such as"),
    ],
)
def test_bounds_out_of_range_are_named(constraint, bound, message):
    with pytest.raises(ValueError, match=message):
        constraint(bound)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("constraint", [MaxNorm(0.5), WeightClip(0.05)], ids=["max-norm", "clip"])
def test_the_limit_holds_after_every_step_of_training(constraint, optimizer):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(30, 6), torch.arange(30) % 3
    step = optimizer(net.parameters(), lr=0.1)
    escaped = 0
    for _ in range(15):
        step.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        step.step()
        for project in (False, True):
            if project:
                constraint.project_(net)
            sizes = [
                p.detach().norm(dim=1).max() if isinstance(constraint, MaxNorm) else p.detach().abs().max()
                for p in (net[0].weight, net[2].weight)
            ]
            escaped += not project and max(sizes) > constraint.bound + 1e-6
        assert max(sizes) <= constraint.bound + 1e-6
    assert escaped > 5  # the steps alone do leave the limit
    assert all(p.requires_grad and p.is_leaf for p in net.parameters())


def test_a_constraint_does_nothing_unless_it_overrides_something():
    layer = randomised(nn.Linear(3, 3))
    before = layer.weight.detach().clone()
    Constraint().project_(layer)
    Constraint().check(layer)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize("kind", [MaxNorm, WeightClip, NonNegative])
def test_a_pattern_selects_and_one_that_matches_nothing_is_refused(kind):
    def make(pattern):
        return kind(pattern=pattern) if kind is NonNegative else kind(0.1, pattern=pattern)

    net = randomised(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    before = [p.detach().clone() for p in net.parameters()]
    make("1.*").project_(net)
    assert torch.equal(net[0].weight, before[0])
    assert not torch.equal(net[1].weight, before[2])
    with pytest.raises(ValueError, match=r"pattern 'heads\.\*' matches no parameter"):
        make("heads.*").check(net)


def test_clamping_at_zero_leaves_biases_alone_and_counts_the_zeros():
    layer = randomised(nn.Linear(3, 2))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -3.0, 0.0], [2.0, -4.0, 4.0]]))
    bias = layer.bias.detach().clone()
    projected = NonNegative().project_(layer)
    assert torch.equal(layer.weight, torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 4.0]]))
    assert torch.equal(layer.bias, bias)
    assert projected.moved == pytest.approx(2 / 6)
    assert projected.at_bound == pytest.approx(3 / 6)
    assert projected.distance == pytest.approx(5 / 46**0.5)
    assert projected.bound is None


@every_layer
@pytest.mark.parametrize(
    "constraint", [MaxNorm(2.0), WeightClip(0.5), NonNegative()], ids=["max-norm", "clip", "non-negative"]
)
def test_what_is_reported_is_what_has_happened(make, rows, constraint):
    net = randomised(nn.Sequential(make(), nn.Linear(30, 3)))
    before = [rows(net[0].weight.detach().clone()), net[1].weight.detach().clone()]
    projected = constraint.project_(net)
    after = [rows(net[0].weight.detach()), net[1].weight.detach()]
    pairs = list(zip(before, after, strict=True))
    if isinstance(constraint, MaxNorm):
        moved = torch.cat([(b != a).any(1) for b, a in pairs])
        at_bound = torch.cat([a.norm(dim=1) > 2 - 1e-5 for a in after])
    else:
        moved = torch.cat([(b != a).flatten() for b, a in pairs])
        edge = 0.5 if isinstance(constraint, WeightClip) else 0.0
        at_bound = torch.cat([(a.abs() == edge).flatten() for a in after])
    change = torch.cat([(b - a).flatten() for b, a in pairs]).norm()
    assert 0 < moved.float().mean() <= 1
    assert projected.moved == pytest.approx(moved.float().mean().item())
    assert projected.at_bound == pytest.approx(at_bound.float().mean().item())
    assert projected.distance == pytest.approx((change / torch.cat([b.flatten() for b in before]).norm()).item(), 1e-4)
    again = constraint.project_(net)
    assert again.moved == 0
    assert again.distance == 0
    assert again.at_bound == pytest.approx(projected.at_bound.item())


@pytest.mark.parametrize("kind", [MaxNorm, WeightClip])
def test_a_bound_follows_its_schedule_and_is_reported(kind):
    constraint = kind(Ramp(epochs=4, start=2, end=1))
    for epoch, bound in ((0.0, 2.0), (2.0, 1.5), (9.0, 1.0), (None, 1.0)):
        layer, reference = randomised(nn.Linear(20, 9)), randomised(nn.Linear(20, 9))
        projected = constraint.project_(layer) if epoch is None else constraint.project_(layer, epoch=epoch)
        kind(bound).project_(reference)
        assert torch.equal(layer.weight, reference.weight)
        assert projected.bound == bound


def test_half_precision_weights_meet_the_limit_up_to_their_rounding():
    net = randomised(nn.Sequential(nn.Linear(200, 9))).to(torch.bfloat16)
    for constraint in (MaxNorm(1.0), WeightClip(0.125)):
        projected = constraint.project_(net)
        assert 0 < projected.moved <= 1
        assert net[0].weight.dtype == torch.bfloat16
    assert net[0].weight.float().norm(dim=1).max() < 1.01
    assert net[0].weight.abs().max() <= 0.125


def test_a_network_without_weights_is_left_alone():
    net = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3))
    assert MaxNorm(1).project_(net) is None
    assert values(net).tolist() == [1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("constraint", [MaxNorm(0.5), WeightClip(0.1), NonNegative()])
def test_copies_that_follow_the_versions_of_weights_notice_the_projection(constraint):
    layer = randomised(nn.Linear(5, 5))
    version = layer.weight._version
    constraint.project_(layer)
    assert layer.weight._version > version
