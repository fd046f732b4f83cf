"""Properties of projections onto convex sets, over layers, sizes and bounds."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_advreg.constraints import MaxNorm, NonNegative, SpectralProjection, WeightClip

from .layers import LAYERS, groups, randomised, values

BOUNDED = {
    "max-norm": MaxNorm,
    "clip": WeightClip,
    "non-negative": lambda bound: NonNegative(),
    "spectral": lambda bound: SpectralProjection(bound, exact=True),
}
every_set = pytest.mark.parametrize("kind", BOUNDED)
cases = {
    "layer": st.sampled_from(sorted(LAYERS)),
    "bound": st.floats(1e-3, 10),
    "scale": st.floats(1e-4, 10),
    "seed": st.integers(0, 2**16),
}
few = settings(max_examples=25, deadline=None)


def excess(kind, layer, rows, bound):
    """By how much a layer exceeds a limit, computed the plain way."""
    weight = layer.weight.detach().double()
    if kind == "max-norm":
        return max(float(row.norm()) for row in rows(weight)) - bound
    if kind == "clip":
        return float(weight.abs().max()) - bound
    if kind == "non-negative":
        return -float(weight.min())
    return max(float(torch.linalg.svdvals(part)[0]) for part in rows(weight).chunk(groups(layer))) - bound


@every_set
@few
@given(**cases)
def test_a_projection_lands_in_the_set_and_a_second_one_changes_nothing(kind, layer, bound, scale, seed):
    make, rows = LAYERS[layer]
    net = randomised(make(), scale, seed)
    constraint = BOUNDED[kind](bound)
    constraint.project_(net)
    assert excess(kind, net, rows, bound) <= 1e-5 * bound
    once = values(net)
    again = constraint.project_(net)
    assert torch.equal(values(net), once)
    assert (again.moved, again.distance) == (0, 0)


@every_set
@few
@given(**cases)
def test_what_lies_inside_is_not_touched(kind, layer, bound, scale, seed):
    net = randomised(LAYERS[layer][0](), scale, seed)
    with torch.no_grad():
        net.weight.mul_(0.9 * bound / net.weight.norm()).abs_()
    before = values(net)
    projected = BOUNDED[kind](bound).project_(net)
    assert torch.equal(values(net), before)
    assert projected.moved == 0


@every_set
@few
@given(**cases, other=st.integers(0, 2**16))
def test_no_point_of_the_set_is_nearer_and_averages_stay_inside(kind, layer, bound, scale, seed, other):
    make, rows = LAYERS[layer]
    constraint, net = BOUNDED[kind](bound), randomised(make(), scale, seed).double()
    start = net.weight.detach().clone()
    constraint.project_(net)
    nearest = net.weight.detach().clone()
    feasible = randomised(make(), scale, other).double()
    constraint.project_(feasible)
    # <w - Pw, z - Pw> <= 0 for every z of the set
    inner = ((start - nearest) * (feasible.weight.detach() - nearest)).sum()
    assert inner <= 1e-6 * (start.norm() + bound) ** 2
    with torch.no_grad():
        net.weight.lerp_(feasible.weight, 0.3)
    assert excess(kind, net, rows, bound) <= 1e-5 * bound


@every_set
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_layout_in_memory_does_not_matter(kind, layout):
    net, reference = (randomised(nn.Conv2d(4, 6, 3)) for _ in range(2))
    if layout == "channels_last":
        net.to(memory_format=torch.channels_last)
    for module in (net, reference):
        BOUNDED[kind](0.7).project_(module)
    torch.testing.assert_close(net.weight.detach().contiguous(), reference.weight.detach())
