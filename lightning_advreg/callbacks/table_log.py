"""One way to show a table or a curve: to every logger that takes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lightning_advreg.reporting import markdown_table


def log_table(trainer: pl.Trainer, name: str, rows: Sequence[Mapping[str, str | float]], *, step: int) -> None:
    """Send a table to the loggers of a Trainer: W&B as one that can be sorted, TensorBoard as text.

    Other loggers are passed over. With ``fast_dev_run``, and on all processes but the main one, nothing happens.

    Args:
        trainer: The Trainer of the run.
        name: What the loggers call it, such as ``test/robust_accuracy``.
        rows: One mapping from column to value a row; columns are those of all rows, in order of appearance.
        step: Where the table stands in the run, in batches.

    Raises:
        ValueError: If there are no rows.

    Example:
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False)
        >>> log_table(trainer, "test/robust_accuracy", [{"attack": "pgd20", "accuracy": 0.51}], step=0)
    """
    if not rows:
        raise ValueError(f"the table {name} has no rows; give at least one.")
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            columns, data = columns_and_data(rows)
            logger.log_table(name, columns=columns, data=data, step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(name, markdown_table(rows), step)


def log_curve(
    trainer: pl.Trainer,
    name: str,
    rows: Sequence[Mapping[str, str | float]],
    *,
    x: str,
    y: str,
    title: str,
    step: int,
) -> None:
    """Send points of a curve to W&B loggers, as a chart that compares runs and as the table that it is drawn from.

    Other loggers are passed over: :func:`~lightning_advreg.callbacks.log_image` shows them the same as a picture.

    Args:
        trainer: The Trainer of the run.
        name: What the logger calls the chart, such as ``test/accuracy_over_eps``; its table has ``_table`` behind it.
        rows: One mapping from column to value a point, in order.
        x: The column along the horizontal axis.
        y: The column along the vertical axis.
        title: What stands above the chart.
        step: Where the curve stands in the run, in batches.

    Raises:
        ValueError: If there are no points, or they have no such columns.

    Example:
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False)
        >>> points = [{"eps": 0.0, "accuracy": 0.9}, {"eps": 0.1, "accuracy": 0.4}]
        >>> log_curve(trainer, "test/accuracy_over_eps", points, x="eps", y="accuracy", title="PGD", step=0)
    """
    columns, data = columns_and_data(rows)
    for axis in (x, y):
        if axis not in columns:
            raise ValueError(f"the curve {name} has no column {axis!r}, only {columns}; name one of them.")
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            chart = wandb.plot.line(wandb.Table(columns=columns, data=data), x, y, title=title)
            # Lightning's type is that of numbers, and W&B takes its own objects as well
            charts: dict[str, Any] = {name: chart}
            logger.log_metrics(charts, step)


def columns_and_data(rows: Sequence[Mapping[str, str | float]]) -> tuple[list[str], list[list[str | float | None]]]:
    """Give the columns of all rows, in order of appearance, and the values in that order.

    Args:
        rows: One mapping from column to value a row.

    Returns:
        The columns, and a list a row; None where a row lacks a value. A column that holds both numbers and text, which
        a table of W&B refuses, is all text.

    Example:
        >>> columns_and_data([{"attack": "pgd", "acc": 0.5}, {"attack": "none", "images": 10}])
        (['attack', 'acc', 'images'], [['pgd', 0.5, None], ['none', None, 10]])
        >>> columns_and_data([{"acc": 0.5}, {"acc": "-"}])
        (['acc'], [['0.5'], ['-']])
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    texts = {name for name in columns if any(isinstance(row.get(name), str) for row in rows)}
    return columns, [
        [str(row[name]) if name in texts and name in row else row.get(name) for name in columns] for row in rows
    ]
