import math

import pytest
from scipy import optimize, stats

from lightning_advreg.metrics import wilson_interval


# Newcombe (1998), table I, method 3: the score interval without continuity correction
@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_equals_published_values(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("correct", "total"), [(1, 7), (52, 100), (9999, 10000)])
def test_wilson_bounds_are_where_the_score_test_just_rejects(correct, total, confidence):
    """A bound q solves |p - q| = z sqrt(q (1 - q) / n), which is found by bisection here."""
    z, p = stats.norm.ppf(0.5 + confidence / 2), correct / total

    def excess(q):
        return abs(p - q) - z * math.sqrt(q * (1 - q) / total)

    expected = optimize.brentq(excess, 1e-12, p - 1e-12), optimize.brentq(excess, p + 1e-12, 1 - 1e-12)
    assert wilson_interval(correct, total, confidence) == pytest.approx(expected, abs=1e-9)


def test_wilson_stays_in_the_unit_interval_and_has_a_width_at_its_ends():
    for total in (1, 3, 1000):
        low, high = wilson_interval(0, total)
        assert low == 0 < high
        low, high = wilson_interval(total, total)
        assert low < high == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 4), "got correct=5, total=4"),
        ((-1, 4), "got correct=-1, total=4"),
        ((0, 0), "got correct=0, total=0"),
        ((1, 2, 95), "confidence must lie between 0 and 1, such as 0.95, got 95"),
    ],
)
def test_wilson_refuses_impossible_counts(arguments, message):
    with pytest.raises(ValueError, match=message):
        wilson_interval(*arguments)
