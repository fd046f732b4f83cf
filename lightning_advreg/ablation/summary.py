"""The table of an ablation: mean, spread, and a paired test against the baseline."""

import math
from collections.abc import Sequence

from lightning_advreg.ablation.paired import PairedDifference, holm, paired_difference
from lightning_advreg.ablation.plan import Plan
from lightning_advreg.ablation.results import FAILED, FINISHED, PENDING, Outcome, by_cell, mean_and_sd
from lightning_advreg.reporting import markdown_table

_LEVEL = 0.05
# with fewer pairs, Student's t has tails so wide that only large effects show
_ENOUGH_SEEDS = 5


def summary_rows(plan: Plan, outcomes: Sequence[Outcome], metrics: Sequence[str]) -> list[dict[str, str | float]]:
    """Lay out one row a cell: finished runs, and for each metric mean ± standard deviation, difference and p.

    The difference to the baseline is the mean over the seeds that both have, and p that of the paired t-test on these,
    after Holm's correction over all comparisons of the table.

    Args:
        plan: What was run.
        outcomes: What became of it.
        metrics: What to show.

    Returns:
        Rows for ``results_table`` and ``markdown_table``.
    """
    base = plan.baseline_cell.name
    compared = _compared(base, outcomes, metrics)
    corrected = dict(zip(compared, holm([difference.p for difference in compared.values()]), strict=True))
    rows: list[dict[str, str | float]] = []
    for cell in plan.cells:
        of_cell = [outcome for outcome in outcomes if outcome.run.cell.name == cell.name]
        done = sum(outcome.state == FINISHED for outcome in of_cell)
        row: dict[str, str | float] = {
            "cell": f"{cell.name} (baseline)" if cell.name == base else cell.name,
            "runs": f"{done} of {len(of_cell)}",
        }
        for metric in metrics:
            values = list(by_cell(of_cell, metric)[cell.name].values())
            row[heading(metric)] = _measured(metric, values)
            if cell.name != base:
                difference = compared.get((cell.name, metric))
                row[f"Δ {_short(metric)}"] = _difference(metric, difference)
                row[f"p {_short(metric)}"] = _p(corrected.get((cell.name, metric), math.nan))
        rows.append(row)
    # the baseline has no columns of differences, and may be the first row
    columns = max(rows, key=len)
    return [{name: row.get(name, "") for name in columns} for row in rows]


def summary_text(plan: Plan, outcomes: Sequence[Outcome], metrics: Sequence[str]) -> list[str]:
    """Say in sentences what the table shows, and what it cannot.

    Args:
        plan: What was run.
        outcomes: What became of it.
        metrics: What the table shows.

    Returns:
        Sentences, each a paragraph.
    """
    base = plan.baseline_cell.name
    seeds = len(plan.seeds)
    text = [
        f"Mean ± standard deviation over {seeds} {'seed' if seeds == 1 else 'seeds'}. Δ: difference to the baseline "
        f"{base}, in percentage points for accuracies, paired by seed. p: paired t-test, two-sided, with Holm's "
        "correction over all comparisons of this table."
    ]
    compared = _compared(base, outcomes, metrics)
    tested = [difference for difference in compared.values() if not math.isnan(difference.p)]
    if not tested:
        text.append(
            "Nothing was tested: too few seeds to tell. A difference needs two or more pairs of finished runs, better "
            f"{_ENOUGH_SEEDS}; continue with more --seeds, finished runs are kept."
        )
        return text + _left(outcomes)
    corrected = holm([difference.p for difference in compared.values()])
    found = [key for key, p in zip(compared, corrected, strict=True) if p < _LEVEL]
    if found:
        listed = "; ".join(f"{cell} in {_short(metric)}" for cell, metric in found)
        text.append(f"Different from the baseline at the {_LEVEL:g} level: {listed}.")
    else:
        text.append(f"No difference to the baseline is significant at the {_LEVEL:g} level.")
    fewest = min(difference.pairs for difference in tested)
    if fewest < _ENOUGH_SEEDS:
        text.append(
            f"With {fewest} pairs only large differences can be told from chance: a large p is no proof that there is "
            f"none. Continue with --seeds {2 * _ENOUGH_SEEDS} or so for more; finished runs are kept."
        )
    if len(tested) < len(compared):
        text.append("A dash for p: too few pairs, or the same difference in every seed, so no spread to test.")
    return text + _left(outcomes)


def summary_markdown(plan: Plan, outcomes: Sequence[Outcome], metrics: Sequence[str]) -> str:
    """Write table and sentences in Markdown.

    Args:
        plan: What was run.
        outcomes: What became of it.
        metrics: What to show.

    Returns:
        The text of ``table.md``.
    """
    table = markdown_table(summary_rows(plan, outcomes, metrics))
    return f"# Ablation\n\n{table}\n" + "\n\n".join(summary_text(plan, outcomes, metrics)) + "\n"


def heading(metric: str) -> str:
    """Name a metric in a table or a figure: accuracies without the ``test/`` that all have.

    Args:
        metric: Such as ``test/robust_acc/pgd20``.

    Returns:
        Such as ``robust acc pgd20``.

    Example:
        >>> heading("test/acc"), heading("test/robust_acc/pgd20")
        ('clean acc', 'robust acc pgd20')
    """
    return "clean acc" if metric == "test/acc" else metric.removeprefix("test/").replace("_", " ").replace("/", " ")


def _short(metric: str) -> str:
    return heading(metric).replace(" acc", "").strip()


def _compared(
    base: str, outcomes: Sequence[Outcome], metrics: Sequence[str]
) -> dict[tuple[str, str], PairedDifference]:
    compared = {}
    for metric in metrics:
        cells = by_cell(outcomes, metric)
        for name, values in cells.items():
            seeds = [seed for seed in values if seed in cells[base]]
            if name != base and seeds:
                pairs = [values[seed] for seed in seeds], [cells[base][seed] for seed in seeds]
                compared[name, metric] = paired_difference(*pairs)
    return compared


def _measured(metric: str, values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean, sd = mean_and_sd(values)
    scale, digits = (100, ".2f") if "acc" in metric else (1, ".4g")
    text = f"{scale * mean:{digits}}"
    spread = f" ± {scale * sd:{digits}}" if len(values) > 1 else ""
    return f"{text}{spread} %" if "acc" in metric else f"{text}{spread}"


def _difference(metric: str, difference: PairedDifference | None) -> str:
    if difference is None:
        return "-"
    return f"{100 * difference.mean:+.2f}" if "acc" in metric else f"{difference.mean:+.4g}"


def _p(p: float) -> str:
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _left(outcomes: Sequence[Outcome]) -> list[str]:
    text = [
        f"Failed: {outcome.run.name}: {outcome.error} (log: {outcome.run.folder / 'log.txt'})"
        for outcome in outcomes
        if outcome.state == FAILED
    ]
    waiting = sum(outcome.state == PENDING for outcome in outcomes)
    if waiting:
        text.append(f"{waiting} of {len(outcomes)} runs are still to be done; the same command continues.")
    return text
