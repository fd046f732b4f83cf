"""An ablation on Weights & Biases: its runs in one group, and their comparison as a run of its own."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_advreg.ablation.plan import Plan
from lightning_advreg.ablation.results import FINISHED, Outcome
from lightning_advreg.ablation.runs import Run
from lightning_advreg.ablation.summary import summary_rows, summary_text

_SHARED = ("project", "entity", "offline", "save_dir", "tags")


def wandb_settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Give the arguments of the ``ResumableWandbLogger`` of a configuration.

    Args:
        config: Every value of a run.

    Returns:
        Its ``init_args``, with None for what is not set; None where the configuration has no such logger.

    Example:
        >>> wandb_settings({"trainer": {"logger": {"class_path": "ResumableWandbLogger"}}}), wandb_settings({})
        ({}, None)
    """
    given = (config.get("trainer") or {}).get("logger")
    for logger in given if isinstance(given, list) else [given]:
        if isinstance(logger, Mapping) and str(logger.get("class_path")).endswith("ResumableWandbLogger"):
            settings: dict[str, Any] = logger.get("init_args") or {}
            return settings
    return None


def grouped(runs: Sequence[Run], out: Path) -> list[Run]:
    """Name the runs of an ablation on W&B after their cells, and list them under the ablation.

    Args:
        runs: The runs; those whose configuration has no ``ResumableWandbLogger`` stay as they are.
        out: The ablation's folder, whose name is the group's. A name or a group that the user gave stays.

    Returns:
        The runs, in their order.
    """
    named = []
    for run in runs:
        config = copy.deepcopy(dict(run.config))
        settings = wandb_settings(config)
        if settings is not None:
            settings["group"] = settings.get("group") or out.name
            settings["name"] = settings.get("name") or run.name
        # the fingerprint knows nothing of loggers
        named.append(Run(cell=run.cell, seed=run.seed, folder=run.folder, config=config, fingerprint=run.fingerprint))
    return named


def log_comparison(plan: Plan, outcomes: Sequence[Outcome], metrics: Sequence[str], out: Path) -> bool:
    """Send the comparison of an ablation to W&B, if its runs log there.

    The run is called ``comparison`` in the group of the ablation, and an ablation that goes on continues it. It has the
    summary (``ablation/summary``), a row for each finished run (``ablation/runs``) and the plots.

    Args:
        plan: What was run.
        outcomes: What became of it.
        metrics: What the summary shows.
        out: The ablation's folder, in which its plots and the id of the run lie.

    Returns:
        Whether there was anything to send, and a logger to send it with.
    """
    finished = [outcome for outcome in outcomes if outcome.state == FINISHED]
    settings = wandb_settings(finished[0].run.config) if finished else None
    if settings is None:
        return False
    from lightning_advreg.callbacks.table_log import columns_and_data
    from lightning_advreg.loggers import ResumableWandbLogger

    shared = {key: settings[key] for key in _SHARED if settings.get(key) is not None}
    logger = ResumableWandbLogger(name="comparison", group=settings.get("group") or out.name, **shared)
    logger.attach(out, resume="allow")
    cells = {cell.name: {"baseline": cell == plan.baseline_cell, **cell.levels} for cell in plan.cells}
    said = summary_text(plan, outcomes, metrics)
    logger.log_hyperparams({"arguments": list(plan.arguments), "cells": cells, "seeds": list(plan.seeds), "text": said})
    rows: list[dict[str, str | float]] = [
        {"cell": one.run.cell.name, **one.run.cell.levels, "seed": one.run.seed, **one.metrics} for one in finished
    ]
    for name, table in {"summary": summary_rows(plan, outcomes, metrics), "runs": rows}.items():
        columns, data = columns_and_data(table)
        logger.log_table(f"ablation/{name}", columns=columns, data=data, step=len(finished))
    for plot in sorted((out / "plots").glob("*.png")):
        logger.log_image(f"ablation/{plot.stem}", [str(plot)], step=len(finished))
    logger.close()
    return True
