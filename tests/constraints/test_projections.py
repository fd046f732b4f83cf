import pytest
import torch
from torch import nn

from lightning_advreg.constraints import Constraint, MaxNorm, WeightClip

# each layer, and its weight as a matrix with one row per unit
LAYERS = {
    "linear": (lambda: nn.Linear(7, 5), lambda w: w),
    "embedding": (lambda: nn.Embedding(6, 4), lambda w: w),
    "conv": (lambda: nn.Conv2d(3, 8, 3), lambda w: w.reshape(8, -1)),
    "conv-grouped": (lambda: nn.Conv2d(4, 8, 3, groups=2), lambda w: w.reshape(8, -1)),
    "conv1d": (lambda: nn.Conv1d(3, 8, 5), lambda w: w.reshape(8, -1)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 8, 3), lambda w: w.transpose(0, 1).reshape(8, -1)),
    "transposed-1d": (lambda: nn.ConvTranspose1d(3, 8, 3), lambda w: w.transpose(0, 1).reshape(8, -1)),
    "transposed-3d": (lambda: nn.ConvTranspose3d(3, 8, 2), lambda w: w.transpose(0, 1).reshape(8, -1)),
    # inputs 0-1 feed outputs 0-3, inputs 2-3 feed outputs 4-7
    "transposed-grouped": (
        lambda: nn.ConvTranspose2d(4, 8, 3, groups=2),
        lambda w: torch.cat([part.transpose(0, 1).reshape(4, -1) for part in w.chunk(2)]),
    ),
}
every_layer = pytest.mark.parametrize(("make", "rows"), LAYERS.values(), ids=LAYERS)


def randomised(module, scale=1.0):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=scale)
    return module


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
@pytest.mark.parametrize("constraint", [MaxNorm(0.8), WeightClip(0.2)], ids=["max-norm", "clip"])
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
        assert torch.equal(net.get_parameter(name), reference[name].clamp(-0.5, 0.5))
    assert all(not torch.equal(net.get_parameter(name), reference[name]) for name in vectors)


@pytest.mark.parametrize("constraint", [MaxNorm(0.1), WeightClip(0.01)])
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
