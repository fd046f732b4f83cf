import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_advreg.constraints import Orthogonal, Parseval

from .layers import LAYERS, randomised, spectra, values

every_layer = pytest.mark.parametrize(("make", "rows"), LAYERS.values(), ids=LAYERS)


@settings(max_examples=25, deadline=None)
@given(
    layer=st.sampled_from(sorted(LAYERS)),
    gain=st.floats(0.1, 5),
    scale=st.floats(1e-3, 10),
    seed=st.integers(0, 2**16),
)
def test_orthogonal_sets_all_singular_values_and_does_so_once(layer, gain, scale, seed):
    make, rows = LAYERS[layer]
    net = randomised(make(), scale, seed)
    constraint = Orthogonal(gain=gain)
    first = constraint.project_(net)
    found = torch.cat(spectra(net, rows))
    torch.testing.assert_close(found, torch.full_like(found, gain), rtol=1e-5, atol=0)
    once = values(net)
    again = constraint.project_(net)
    assert torch.equal(values(net), once)
    assert first.moved == 1
    assert (again.moved, again.distance) == (0, 0)


@every_layer
def test_no_orthogonal_matrix_is_nearer(make, rows):
    net = randomised(make()).double()
    start = net.weight.detach().clone()
    projected = Orthogonal().project_(net)
    distance = (net.weight.detach() - start).norm()
    assert projected.distance == pytest.approx((distance / start.norm()).item(), 1e-6)
    other = make().double()
    for seed in range(30):
        with torch.no_grad():
            # near by as well as far away
            noise = randomised(make(), 0.1 if seed % 2 else 2.0, seed).double().weight
            other.weight.copy_(net.weight + noise)
        Orthogonal().project_(other)
        assert (other.weight.detach() - start).norm() >= distance - 1e-9


@every_layer
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_a_step_of_parseval_moves_each_singular_value_by_its_formula(make, rows, gain):
    net = randomised(make(), 0.2)
    before, start = spectra(net, rows), net.weight.detach().clone()
    projected = Parseval(beta=0.25, gain=gain).project_(net)
    for old, new in zip(before, spectra(net, rows), strict=True):
        expected = (1.25 * old - 0.25 * old**3 / gain**2).sort(descending=True).values
        torch.testing.assert_close(new, expected.abs().sort(descending=True).values, rtol=1e-4, atol=1e-5)
    change = (net.weight.detach() - start).norm() / start.norm()
    assert projected.distance == pytest.approx(change.item(), 1e-4)
    assert projected.moved == 1


@every_layer
def test_parseval_converges_to_the_polar_factor_and_stays_there(make, rows):
    net, exact = randomised(make(), 0.1), randomised(make(), 0.1)
    Orthogonal().project_(exact)
    many, one = Parseval(beta=0.5, steps=30), Parseval(beta=0.5)
    many.project_(net)
    torch.testing.assert_close(net.weight.detach(), exact.weight.detach(), rtol=1e-4, atol=1e-5)
    last = one.project_(net)
    assert last.moved == 0
    assert last.distance < 1e-5


def test_parseval_is_the_literal_formula():
    layer = randomised(nn.Linear(5, 3))
    w = layer.weight.detach().clone()
    Parseval(beta="1/10").project_(layer)
    torch.testing.assert_close(layer.weight.detach(), 1.1 * w - 0.1 * w @ w.T @ w)


def test_biases_scales_and_what_a_pattern_leaves_out_stay():
    net = randomised(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for constraint in (Orthogonal(pattern="0.*"), Parseval(pattern="0.*")):
        constraint.project_(net)
    changed = [name for name, p in net.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["0.weight"]


def test_an_average_is_not_orthogonal_but_no_larger():
    nets = [randomised(nn.Linear(6, 4), seed=seed) for seed in (0, 1)]
    for net in nets:
        Orthogonal().project_(net)
    found = torch.linalg.svdvals((nets[0].weight.detach() + nets[1].weight.detach()) / 2)
    assert found.min() < 0.95
    assert found.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Orthogonal(gain=0), "gain must be positive, got 0"),
        (lambda: Parseval(gain="-1"), "gain must be positive, got '-1'"),
        (lambda: Parseval(beta=0), "beta must be positive, got 0"),
        (lambda: Parseval(beta=0.6), "beta must be at most 0.5, got 0.6"),
        (lambda: Parseval(steps=0), "steps must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
