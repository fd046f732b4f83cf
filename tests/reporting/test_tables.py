import math

import pytest
from rich.console import Console
from scipy import optimize, stats

from lightning_advreg.reporting import markdown_table, results_table, wilson_interval

ROWS = [
    {"model": "standard", "clean acc": 0.9512, "val/robust_acc/pgd": 0.0, "loss": 0.123456, "epochs": 30},
    {"model": "a|b", "clean acc": 1, "epochs": 7, "note": "late"},
]


def test_markdown_shows_accuracies_as_percent_and_missing_values_as_a_dash():
    assert markdown_table(ROWS).splitlines() == [
        "| model | clean acc | val/robust_acc/pgd | loss | epochs | note |",
        "| :-- | --: | --: | --: | --: | :-- |",
        "| standard | 95.12 % | 0.00 % | 0.1235 | 30 | - |",
        r"| a\|b | 100.00 % | - | - | 7 | late |",
    ]


def test_the_terminal_shows_the_same_cells_with_numbers_to_the_right():
    console = Console(width=120)
    with console.capture() as capture:
        console.print(results_table(ROWS, "CIFAR-10"))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["CIFAR-10"] in lines
    assert ["standard", "95.12", "%", "0.00", "%", "0.1235", "30", "-"] in lines
    justify = [column.justify for column in results_table(ROWS, "").columns]
    assert justify == ["left", "right", "right", "right", "right", "left"]


def test_a_table_without_rows_is_an_error():
    with pytest.raises(ValueError, match="at least one row"):
        markdown_table([])


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
