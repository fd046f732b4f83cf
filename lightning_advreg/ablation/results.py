"""Results of all runs: one row a run in ``results.csv``, and what a summary needs of them."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_advreg.ablation.folders import ERROR, finished, read_json
from lightning_advreg.ablation.runs import Run
from lightning_advreg.files import write_text

_MOST_METRICS = 4
FINISHED, FAILED, PENDING = "finished", "failed", "not run"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run.

    Args:
        run: The run.
        state: ``finished``, ``failed`` or ``not run``.
        result: The content of its ``result.json``; empty unless it is finished.
        error: Why it failed, in one line.
    """

    run: Run
    state: str
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Its metrics by name; none unless it is finished."""
        metrics: Mapping[str, float] = self.result.get("metrics", {})
        return metrics


def read_outcomes(runs: Sequence[Run], errors: Mapping[Path, str] | None = None) -> list[Outcome]:
    """Read what became of runs from their folders.

    Args:
        runs: The runs.
        errors: One line for each run, by its folder, that has failed without saying so itself.

    Returns:
        One outcome for each run, in their order.
    """
    outcomes = []
    for run in runs:
        result = finished(run.folder)
        said = read_json(run.folder / ERROR)
        error = str(said["error"]) if said else (errors or {}).get(run.folder, "")
        if result is not None:
            outcomes.append(Outcome(run=run, state=FINISHED, result=result))
        else:
            outcomes.append(Outcome(run=run, state=FAILED if error else PENDING, error=error))
    return outcomes


def shown_metrics(outcomes: Sequence[Outcome], wanted: Sequence[str] | None = None) -> list[str]:
    """Choose the metrics to show.

    Args:
        outcomes: What became of the runs.
        wanted: Their names, or the ends of names that only one metric of the test has, such as ``frechet``; None for at
            most four of the test: accuracies, clean before robust; else figures of generated images, else the first.

    Returns:
        Full names; a wanted one that no run has stays as it is.
    """
    names = sorted({name for outcome in outcomes for name in outcome.metrics if name.startswith("test/")})
    if wanted is not None:
        ends = {name: [full for full in names if full.endswith(f"/{name}")] for name in wanted}
        return [ends[name][0] if name not in names and len(ends[name]) == 1 else name for name in wanted]
    accuracies = sorted((name for name in names if "acc" in name), key=lambda name: (name != "test/acc", name))
    return (accuracies or [name for name in names if name.startswith("test/gan/")] or names)[:_MOST_METRICS]


def by_cell(outcomes: Sequence[Outcome], metric: str) -> dict[str, dict[int, float]]:
    """Sort a metric by cell and seed.

    Args:
        outcomes: What became of the runs.
        metric: Its name.

    Returns:
        For each cell, in order, the value of each seed that has one.
    """
    cells: dict[str, dict[int, float]] = {}
    for outcome in outcomes:
        values = cells.setdefault(outcome.run.cell.name, {})
        if metric in outcome.metrics:
            values[outcome.run.seed] = outcome.metrics[metric]
    return cells


def mean_and_sd(values: Sequence[float]) -> tuple[float, float]:
    """Give the mean and the standard deviation with ``n - 1`` degrees of freedom, 0 for a single value.

    Args:
        values: At least one.

    Returns:
        Mean and standard deviation.

    Example:
        >>> mean_and_sd([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def write_csv(outcomes: Sequence[Outcome], path: Path, baseline: str) -> None:
    """Write one row a run: its cell, levels, seed and state; metrics; seconds, hardware, versions; folder and error.

    Args:
        outcomes: What became of the runs.
        path: The file.
        baseline: The name of the baseline's cell.
    """
    rows = [_row(outcome, baseline) for outcome in outcomes]
    metrics = sorted({name for outcome in outcomes for name in outcome.metrics})
    versions = list(dict.fromkeys(name for outcome in outcomes for name in outcome.result.get("versions", {})))
    levels = list(outcomes[0].run.cell.levels)
    columns = [
        *("cell", "baseline", *levels, "seed", "state", *metrics),
        *("fit_seconds", "test_seconds", "starts", "device", "threads", *versions, "fingerprint", "folder", "error"),
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _row(outcome: Outcome, baseline: str) -> dict[str, Any]:
    run = outcome.run
    known = ("fit_seconds", "test_seconds", "starts", "device", "threads")
    return {
        "cell": run.cell.name,
        "baseline": "yes" if run.cell.name == baseline else "no",
        **run.cell.levels,
        "seed": run.seed,
        "state": outcome.state,
        **outcome.metrics,
        **{name: outcome.result[name] for name in known if name in outcome.result},
        **outcome.result.get("versions", {}),
        "fingerprint": run.fingerprint,
        "folder": str(run.folder),
        "error": outcome.error,
    }
