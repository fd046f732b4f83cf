"""The section of robust evaluations: accuracy against the budget, and under each attack."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_advreg.report.chart import Line, line_chart
from lightning_advreg.report.identity import legend, named, percent
from lightning_advreg.report.markup import Markup, element, section, table
from lightning_advreg.report.runs import RunRecord

_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}
# MNIST's 0.3 is no round number of 255ths
_MOST_255THS = 40


def robustness_section(runs: Sequence[RunRecord]) -> Markup:
    """Show robust evaluations: a chart for each norm, and a table of attacks.

    Args:
        runs: The runs.

    Returns:
        The section; empty if no run was evaluated under attack.
    """
    charts = list(_charts(runs))
    rows = [[named(runs, index), *cells] for index, run in enumerate(runs) for cells in _rows(run)]
    if not charts and not rows:
        return Markup()
    parts: list[str] = []
    if charts:
        shown = [index for index, run in enumerate(runs) if any(each.get("curve") for each in run.evaluations.values())]
        if len(runs) > 1:
            parts.append(legend(runs, shown))
        parts.append(element("div", *charts, class_="charts"))
    if rows:
        head = ("run", "attack", "budget", "accuracy", "95 % interval", "images")
        parts.append(table("Accuracy under attack, on test images", head, rows))
    return section("robustness", "Robustness", *parts)


def worst_cases(run: RunRecord) -> list[float]:
    """Give the accuracies of a run under all attacks of an evaluation together, one for each evaluation."""
    found = [(content.get("worst_case") or {}).get("accuracy") for content in run.evaluations.values()]
    return [rate for rate in found if isinstance(rate, float | int)]


def _charts(runs: Sequence[RunRecord]) -> Iterator[Markup]:
    curves = [
        (index, name, curve)
        for index, run in enumerate(runs)
        for name, content in run.evaluations.items()
        if isinstance(curve := content.get("curve"), dict) and curve.get("points")
    ]
    for norm in dict.fromkeys(str(curve.get("norm")) for _, _, curve in curves):
        ours = [(index, name, curve) for index, name, curve in curves if curve.get("norm") == norm]
        widest = max(point["eps"] for _, _, curve in ours for point in curve["points"])
        in_255ths = norm == "linf" and 255 * widest <= _MOST_255THS
        lines = [_line(runs, index, curve, 255 if in_255ths else 1) for index, _, curve in ours]
        unit = "1/255" if in_255ths else "pixels in [0, 1]"
        title = f"Accuracy (%) against the {_NORMS.get(norm, norm)} budget"
        drawn = line_chart(lines, title=title, x_label=f"eps ({unit})", percent=True, markers=True)
        if drawn:
            attacks = dict.fromkeys(_attack_name(curve.get("attack") or {}) for _, _, curve in ours)
            caption = f"{title}, under {' and '.join(attacks)}; shaded: 95 % interval"
            yield element("figure", element("figcaption", caption), Markup(drawn))


def _line(runs: Sequence[RunRecord], index: int, curve: Mapping[str, Any], factor: float) -> Line:
    points = [point for point in curve["points"] if point.get("accuracy") is not None]
    attack = _attack_name(curve.get("attack") or {})
    return Line(
        label=f"{runs[index].name}, {attack}",
        points=[(factor * point["eps"], point["accuracy"]) for point in points],
        colour=index,
        mark=str(index + 1) if len(runs) > 1 else "",
        band=[(low, high) for low, high in (point["interval"] for point in points)],
    )


def _rows(run: RunRecord) -> Iterator[list[str]]:
    for content in run.evaluations.values():
        yield _row("none", "", content.get("clean") or {})
        attacks = content.get("attacks") or {}
        for name, result in attacks.items():
            stages = result.get("stages") or {}
            if len(stages) > 1:
                for stage, rate in stages.items():
                    yield _row(f"{name}: {stage}", _budget(result), rate)
            yield _row(name, _budget(result), result)
        if len(attacks) > 1:
            yield _row("worst case", "", content.get("worst_case") or {})


def _row(attack: str, budget: str, rate: Mapping[str, Any]) -> list[str]:
    low, high = rate.get("interval") or (None, None)
    interval = "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"
    return [attack, budget, percent(rate.get("accuracy")), interval, str(rate.get("images", "-"))]


def _budget(result: Mapping[str, Any]) -> str:
    attack = result.get("attack") or {}
    eps, norm = attack.get("eps"), str(attack.get("norm", ""))
    if not isinstance(eps, float | int):
        return ""
    multiple = 255 * eps
    written = f"{multiple:.4g}/255" if norm == "linf" and abs(multiple - round(multiple)) < 1e-3 else f"{eps:.4g}"
    if multiple > _MOST_255THS:
        written = f"{eps:.4g}"
    return f"{_NORMS.get(norm, norm)} {written}"


def _attack_name(attack: Mapping[str, Any]) -> str:
    name, steps = str(attack.get("attack", "attack")), attack.get("steps")
    return f"{name}-{steps}" if isinstance(steps, int) else name
