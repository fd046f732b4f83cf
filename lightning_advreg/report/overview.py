"""The first section: what was run, how far it came, and its main figures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_advreg.report.identity import named, percent
from lightning_advreg.report.markup import Markup, element, section, table
from lightning_advreg.report.robustness import worst_cases
from lightning_advreg.report.runs import RunRecord

_MOST_METRICS = 4


def overview_section(runs: Sequence[RunRecord]) -> Markup:
    """Show one row a run: module, network, how far it came, accuracies, warnings.

    Args:
        runs: The runs.

    Returns:
        The section.
    """
    metrics = _main_metrics(runs)
    untested = any(not run.tested for run in runs) and any("val/acc" in run.curves for run in runs)
    # that of a single attack has a column already
    worst = any(len(content.get("attacks") or ()) > 1 for run in runs for content in run.evaluations.values())
    head = ["run", "module", "network", "trained"]
    head += ["last val acc"] * untested + [_heading(metric) for metric in metrics] + ["worst case"] * worst
    head.append("warnings")
    rows = []
    for index, run in enumerate(runs):
        network = _argument(run, "network") or _argument(run, "generator")
        cells: list[str] = [named(runs, index), _class(run.config.get("model") or {}), _class(network), run.state]
        if untested:
            points = run.curves.get("val/acc")
            cells.append(percent(points[-1][1] if points else None))
        cells += [percent(run.tested.get(metric)) for metric in metrics]
        if worst:
            cells.append(percent(min(worst_cases(run), default=None)))
        warnings = len(run.alarms or ()) + len(run.signs) + len(run.notes) + bool(run.error)
        cells.append(element("a", str(warnings), href="#warnings") if warnings else "0")
        rows.append(cells)
    return section("runs", "Runs", table("Accuracies are those of test, if no other is named", head, rows))


def _main_metrics(runs: Sequence[RunRecord]) -> list[str]:
    counts = Counter(
        name
        for run in runs
        for name in run.tested
        # stages of attacks, and what the column of worst cases shows
        if "acc" in name and name.count("/") < 3 and not name.endswith("/worst_case")
    )
    common = sorted(counts, key=lambda name: (name != "test/acc", -counts[name], name))[:_MOST_METRICS]
    return sorted(common, key=lambda name: (name != "test/acc", name))


def _heading(metric: str) -> str:
    return "acc" if metric == "test/acc" else metric.removeprefix("test/").replace("/", " ").replace("_", " ")


def _argument(run: RunRecord, name: str) -> Any:  # noqa: ANN401
    return ((run.config.get("model") or {}).get("init_args") or {}).get(name)


def _class(value: object) -> str:
    if not isinstance(value, Mapping) or "class_path" not in value:
        return "-"
    return str(value["class_path"]).rpartition(".")[2]
