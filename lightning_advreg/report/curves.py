"""The section of learning curves."""

from collections.abc import Sequence

from lightning_advreg.report.chart import Line, line_chart
from lightning_advreg.report.identity import legend
from lightning_advreg.report.markup import Markup, element, folded, section
from lightning_advreg.report.runs import RunRecord

_STAGES = ("train/", "val/")
_MOST_SHOWN = 8


def curves_section(runs: Sequence[RunRecord]) -> Markup:
    """Draw what runs logged against epochs: one chart a quantity, training and validation in one; others folded.

    Args:
        runs: The runs.

    Returns:
        The section; empty if nothing was logged.
    """
    quantities = sorted({_quantity(metric) for run in runs for metric in run.curves}, key=_rank)
    charts = [drawn for quantity in quantities if (drawn := _chart(quantity, runs))]
    if not charts:
        return Markup()
    shown = [index for index, run in enumerate(runs) if run.curves]
    parts: list[str] = [
        element(
            "p",
            "Where both were logged, validation is solid and training dashed. Point at a line for its name.",
            class_="note",
        ),
    ]
    if len(runs) > 1:
        parts.append(legend(runs, shown))
    parts.append(element("div", *charts[:_MOST_SHOWN], class_="charts"))
    if charts[_MOST_SHOWN:]:
        others = element("div", *charts[_MOST_SHOWN:], class_="charts")
        parts.append(folded(f"{len(charts) - _MOST_SHOWN} more quantities", others))
    return section("curves", "Learning curves", *parts)


def _quantity(metric: str) -> str:
    for stage in _STAGES:
        if metric.startswith(stage):
            return metric.removeprefix(stage)
    return metric


def _chart(quantity: str, runs: Sequence[RunRecord]) -> Markup:
    lines = []
    for index, run in enumerate(runs):
        mark = str(index + 1) if len(runs) > 1 else ""
        ours = [metric for metric in (quantity, *(stage + quantity for stage in _STAGES)) if metric in run.curves]
        for metric in ours:
            dashed = metric.startswith("train/") and len(ours) > 1
            points = run.curves[metric]
            label = f"{run.name}: {metric}, {points[-1][1]:.4g} at the end"
            # the number of a run stands at its last line alone
            own = mark if metric == ours[-1] else ""
            lines.append(Line(label=label, points=points, colour=index, dashed=dashed, mark=own))
    logged = {metric for run in runs for metric in run.curves if _quantity(metric) == quantity}
    title = _title(quantity)
    if all(metric.startswith("train/") for metric in logged):
        title = f"training: {title}"
    drawn = line_chart(lines, title=title, x_label="epochs", percent=_is_accuracy(quantity))
    return element("figure", element("figcaption", title), Markup(drawn)) if drawn else Markup()


def _title(quantity: str) -> str:
    words = quantity.replace("/", ", ").replace("_", " ")
    words = " ".join("accuracy" if word == "acc" else word for word in words.replace("acc,", "accuracy,").split(" "))
    return f"{words} (%)" if _is_accuracy(quantity) else words


def _is_accuracy(quantity: str) -> bool:
    return any("acc" in part.split("_") for part in quantity.split("/"))


def _rank(quantity: str) -> tuple[int, str]:
    if quantity == "acc":
        return 0, quantity
    if quantity.startswith("robust_acc"):
        return 1, quantity
    if "loss" in quantity:
        return (2 if quantity == "loss" else 3), quantity
    return (4 if quantity.startswith("monitor/") and _is_accuracy(quantity) else 5), quantity
