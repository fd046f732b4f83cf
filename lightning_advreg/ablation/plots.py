"""The pictures of an ablation."""

import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path

from lightning_advreg.ablation.folders import logged
from lightning_advreg.ablation.plan import Plan
from lightning_advreg.ablation.results import FINISHED, Outcome
from lightning_advreg.ablation.summary import heading
from lightning_advreg.reporting import (
    generalisation_gap_figure,
    interaction_figure,
    learning_curves_figure,
    main_effects_figure,
    save_figure,
    tradeoff_figure,
)

TRAIN_ACC, TEST_ACC, VAL_ACC = "train/final_acc", "test/acc", "val/acc"


def draw_plots(plan: Plan, outcomes: Sequence[Outcome], metrics: Sequence[str], folder: Path) -> list[Path]:
    """Draw what the finished runs allow.

    Main effects, an interaction for every two factors, clean against robust accuracy, learning curves and the
    generalisation gap. Metrics that are no accuracies are left out.

    Args:
        plan: What was run.
        outcomes: What became of it.
        metrics: The metrics to show.
        folder: Where the pictures go.

    Returns:
        Their files.
    """
    done = [outcome for outcome in outcomes if outcome.state == FINISHED]
    rates = [metric for metric in metrics if "acc" in metric and any(metric in outcome.metrics for outcome in done)]
    figures = {}
    if rates:
        effects = {factor: _effects(factor, done, rates) for factor in plan.factors}
        figures["main_effects"] = main_effects_figure(effects)
        for one, other in itertools.combinations(plan.factors, 2):
            for metric in rates:
                means = _means(one, other, done, metric)
                name = f"interaction_{one}_{other}_{heading(metric)}".replace(" ", "_").replace("/", "_")
                figures[name] = interaction_figure(means, one, other, heading(metric))
    for metric in rates:
        pairs = _pairs(done, TEST_ACC, metric)
        if metric != TEST_ACC and pairs:
            name = f"tradeoff_{heading(metric)}".replace(" ", "_")
            figures[name] = tradeoff_figure(pairs, heading(metric).replace("acc", "accuracy"))
    if gaps := _pairs(done, TRAIN_ACC, TEST_ACC):
        split = {name: ([a for a, _ in both], [b for _, b in both]) for name, both in gaps.items()}
        figures["generalisation_gap"] = generalisation_gap_figure(split)
    for metric, runs in _curves(done).items():
        name = f"learning_curves_{metric.removeprefix('val/')}".replace("/", "_")
        figures[name] = learning_curves_figure(runs, _validation(metric))
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        save_figure(figure, files[-1])
    return files


def _effects(factor: str, done: Sequence[Outcome], rates: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    effects: dict[str, dict[str, list[float]]] = {}
    for outcome in done:
        level = effects.setdefault(outcome.run.cell.levels[factor], {})
        for metric in rates:
            if metric in outcome.metrics:
                level.setdefault(heading(metric), []).append(outcome.metrics[metric])
    return effects


def _means(one: str, other: str, done: Sequence[Outcome], metric: str) -> dict[str, dict[str, float]]:
    runs: dict[str, dict[str, list[float]]] = {}
    for outcome in done:
        if metric in outcome.metrics:
            levels = outcome.run.cell.levels
            runs.setdefault(levels[one], {}).setdefault(levels[other], []).append(outcome.metrics[metric])
    return {row: {column: statistics.fmean(v) for column, v in columns.items()} for row, columns in runs.items()}


def _pairs(done: Sequence[Outcome], one: str, other: str) -> dict[str, list[tuple[float, float]]]:
    pairs: dict[str, list[tuple[float, float]]] = {}
    for outcome in done:
        if one in outcome.metrics and other in outcome.metrics:
            pairs.setdefault(outcome.run.cell.name, []).append((outcome.metrics[one], outcome.metrics[other]))
    return pairs


def _curves(done: Sequence[Outcome]) -> dict[str, dict[str, list[dict[int, float]]]]:
    curves: dict[str, dict[str, list[dict[int, float]]]] = {}
    for outcome in done:
        epochs = logged(outcome.run.folder)
        for metric in sorted({name for epoch in epochs for name in epoch if name.startswith("val/") and "acc" in name}):
            curve = {int(epoch["epoch"]) + 1: epoch[metric] for epoch in epochs if metric in epoch}
            curves.setdefault(metric, {}).setdefault(outcome.run.cell.name, []).append(curve)
    # a single epoch is no course
    return {
        metric: cells
        for metric, cells in curves.items()
        if any(len(curve) > 1 for runs in cells.values() for curve in runs)
    }


def _validation(metric: str) -> str:
    if metric == VAL_ACC:
        return "validation accuracy"
    return f"validation {metric.removeprefix('val/').replace('_acc', ' accuracy').replace('/', ' ').replace('_', ' ')}"
