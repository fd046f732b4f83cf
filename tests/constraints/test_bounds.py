import copy

import pytest
import torch
from torch import nn

from lightning_advreg.constraints import AdaptiveBound, MaxNorm, SpectralProjection, WeightClip
from lightning_advreg.schedules import Constant, Ramp


@pytest.mark.parametrize("start", [0.01, 50.0])
@pytest.mark.parametrize("kind", [MaxNorm, WeightClip])
def test_an_adaptive_bound_settles_where_the_wanted_share_sits_on_it(kind, start):
    torch.manual_seed(0)
    bound = AdaptiveBound(start, share=0.2, rate=0.05)
    constraint, layer = kind(bound), nn.Linear(20, 400)
    shares = []
    for step in range(300):
        nn.init.normal_(layer.weight)  # what training would do, from scratch each time
        projected = constraint.project_(layer)
        assert projected.bound > 0
        shares.append(float(projected.at_bound) if step >= 250 else 0.2)
    assert sum(shares[250:]) / 50 == pytest.approx(0.2, abs=0.01)
    # the 80 % point of the sizes
    nn.init.normal_(layer.weight)
    sizes = layer.weight.detach().norm(dim=1) if kind is MaxNorm else layer.weight.detach().abs().flatten()
    assert bound.value.item() == pytest.approx(sizes.quantile(0.8).item(), rel=0.05)


def test_the_controller_moves_by_its_formula_and_within_its_limits():
    bound = AdaptiveBound(1.0, share=0.2, rate="1/10", minimum=0.9, maximum=1.05)
    for share, expected in ((0.2, 1.0), (0.3, 1.05), (0.1, 1.05 * 2.718281828 ** (-0.05)), (0.0, 0.9038), (0.0, 0.9)):
        bound.follow_(torch.tensor(share))
        assert bound.value.item() == pytest.approx(expected, rel=1e-3)


def test_the_weights_of_a_step_meet_the_bound_of_that_step():
    layer = nn.Linear(9, 5)
    bound = AdaptiveBound(0.1, share=0.5, rate=0.5)
    projected = MaxNorm(bound).project_(layer)
    assert projected.bound == pytest.approx(0.1)
    assert layer.weight.detach().norm(dim=1).max() <= 0.1
    assert bound.value > 0.15


def test_it_works_for_spectral_norms_and_is_saved_with_them():
    constraint = SpectralProjection(AdaptiveBound(0.5, share=0.5, rate=0.5))
    constraint.project_(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    state = copy.deepcopy(constraint.state_dict())
    assert float(state["bound.value"]) > 0.5
    other = SpectralProjection(AdaptiveBound(0.5, share=0.5, rate=0.5))
    other.load_state_dict(state)
    assert torch.equal(other.bound.value, constraint.bound.value)


def test_it_stays_in_full_precision_when_its_module_does_not():
    bound = AdaptiveBound(1.0, share=0.5, rate=1e-4)
    nn.ModuleList([bound]).to(torch.bfloat16)
    assert bound.value.dtype == torch.float32
    layer = nn.Linear(4, 4).to(torch.bfloat16)
    MaxNorm(bound).project_(layer)
    assert bound.value != 1.0  # in bfloat16 such a step would be lost


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 0}, "start must be at least 1e-06, got 0"),
        ({"start": 3, "maximum": 2}, "start must be at most 2, got 3"),
        ({"start": 1, "share": 1}, "share must be less than 1, got 1"),
        ({"start": 1, "share": 0}, "share must be positive, got 0"),
        ({"start": 1, "rate": 2}, "rate must be at most 1, got 2"),
        ({"start": 1, "rate": "-1/2"}, "rate must be positive, got '-1/2'"),
        ({"start": 1, "minimum": 0}, "minimum must be positive, got 0"),
        ({"start": 1, "maximum": 0}, "maximum must be at least 1e-06, got 0"),
    ],
)
def test_numbers_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveBound(**arguments)


def test_a_schedule_that_reaches_zero_is_refused():
    with pytest.raises(ValueError, match="bound must stay positive, got 0 from Ramp"):
        MaxNorm(Ramp(epochs=3))
    with pytest.raises(ValueError, match="bound must stay positive, got -1 from Constant"):
        SpectralProjection(Constant(-1))
