import math

import pytest
import torch

from lightning_advreg.metrics import AccuracyCurve, wilson_interval

BUDGETS = [0, "1/255", "8/255", 0.5]


def test_by_hand():
    curve = AccuracyCurve(BUDGETS)
    curve.update(torch.tensor([0.0, 1 / 255, 0.01, 8 / 255, 0.4, 0.6, math.inf, math.inf]))
    assert curve.eps == (0, 1 / 255, 8 / 255, 0.5)
    assert curve.correct.tolist() == [7, 6, 4, 3]
    assert curve.compute().tolist() == [7 / 8, 6 / 8, 4 / 8, 3 / 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_radius_at_a_budget_has_fallen_also_after_float32(dtype):
    eps = [k / 255 for k in range(1, 33)]
    curve = AccuracyCurve(eps)
    # a budget that passed through float32 lies a rounding above or below the float
    through = torch.tensor(eps, dtype=torch.float32).to(dtype)
    assert (through.double() > torch.tensor(eps, dtype=torch.float64)).any()
    for radius in through:
        curve.update(radius.view(1))
    assert curve.correct.tolist() == list(range(31, -1, -1))


def test_radii_beyond_the_tolerance_have_not_fallen():
    curve = AccuracyCurve([8 / 255])
    curve.update(torch.tensor([8 / 255 * (1 + 2e-6), 8 / 255 * (1 + 5e-7)], dtype=torch.float64))
    assert curve.correct.tolist() == [1]


def test_at_zero_only_images_wrong_without_attack_have_fallen():
    curve = AccuracyCurve([0])
    curve.update(torch.tensor([0.0, 1e-30, math.inf]))
    assert curve.compute().item() == pytest.approx(2 / 3)


def test_half_precision_radii_are_compared_in_float64():
    curve = AccuracyCurve([0.1])
    radius = torch.tensor([0.1], dtype=torch.bfloat16)  # 0.10009765625
    curve.update(radius)
    assert curve.correct.tolist() == [1]


def test_intervals_are_those_of_each_budget():
    curve = AccuracyCurve([0.1, 0.2])
    assert curve.intervals() == [None, None]
    curve.update(torch.tensor([0.1, 0.15, 0.3]))
    assert curve.intervals(0.8) == [wilson_interval(2, 3, 0.8), wilson_interval(1, 3, 0.8)]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_counted_gives_zeros():
    assert AccuracyCurve([0, 1]).compute().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        ([], "at least one budget"),
        ([0.1, 0.1], r"eps must rise from each budget to the next, got \[0.1, 0.1\]"),
        ([0.2, "8/255"], "eps must rise"),
        ([0, -0.1], r"eps\[1\] must be at least 0, got -0.1"),
        (["a"], r"eps\[0\] must be a number"),
    ],
)
def test_bad_budgets_are_named(eps, message):
    with pytest.raises(ValueError, match=message):
        AccuracyCurve(eps)


def test_bad_radii_are_named_and_count_nothing():
    curve = AccuracyCurve([0.1])
    with pytest.raises(ValueError, match="radius must be 0 or more for every image, got nan"):
        curve.update(torch.tensor([0.1, math.nan]))
    with pytest.raises(ValueError, match=r"got -0.5"):
        curve.update(torch.tensor([0.1, -0.5]))
    with pytest.raises(ValueError, match=r"radius must have shape \(N,\), one per image, got \(2, 1\)"):
        curve.update(torch.zeros(2, 1))
    with pytest.raises(TypeError, match=r"radius must be floating point, got torch.int64"):
        curve.update(torch.tensor([1]))
    assert curve.total == 0
