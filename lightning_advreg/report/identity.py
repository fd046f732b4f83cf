"""How a run is told from the others throughout a report: a number, a colour, a name."""

from collections.abc import Sequence

from lightning_advreg.report.chart import COLOURS
from lightning_advreg.report.markup import Markup, element, joined
from lightning_advreg.report.runs import RunRecord


def badge(index: int) -> Markup:
    """Write the number of a run in its colour."""
    return element("span", str(index + 1), class_="badge", style=f"background:var(--c{index % COLOURS})")


def named(runs: Sequence[RunRecord], index: int) -> Markup:
    """Write number and name of a run."""
    return joined(badge(index), " ", runs[index].name)


def legend(runs: Sequence[RunRecord], shown: Sequence[int]) -> Markup:
    """Write which number is which run."""
    return element("ul", *(element("li", named(runs, index)) for index in shown), class_="legend")


def percent(value: float | None) -> str:
    """Write a fraction as percent; a dash for None."""
    return "-" if value is None else f"{100 * value:.1f} %"
