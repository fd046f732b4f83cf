"""What an evaluation found, for people: pictures, a table, and warnings of gradient masking."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from torch import Tensor, nn

from lightning_advreg.callbacks.image_log import log_image
from lightning_advreg.callbacks.isolation import evaluation
from lightning_advreg.callbacks.table_log import log_curve, log_table
from lightning_advreg.evaluation import CurveResult, Rate, RobustnessReport
from lightning_advreg.reporting import (
    accuracy_curve_figure,
    adversarial_examples_figure,
    per_class_figure,
    results_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_report(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    report: RobustnessReport,
    x: Tensor,
    y: Tensor,
    model: nn.Module | None = None,
    *,
    examples: int = 8,
    class_names: Sequence[str] | None = None,
    suffix: str = "",
) -> None:
    """Show an evaluation: pictures to the loggers and the run folder, tables to loggers and terminal, warnings.

    All processes must call this, since they agree on the folder; the main one shows.

    Args:
        trainer: The Trainer of the run.
        pl_module: The module that was attacked.
        report: What was found.
        x: The images in [0, 1], of shape ``(N, C, H, W)``, on any device.
        y: Their labels, of shape ``(N,)``.
        model: What maps such images to logits; None for the module.
        examples: How many adversarial examples to show, first those that an attack found; 0 for none, and none of
            images that are neither grey nor RGB.
        class_names: A name for each class; numbers are shown without.
        suffix: What ends the pictures' names.
    """
    step = trainer.global_step
    log_table(trainer, f"test/robust_accuracy{suffix}", _rates(report), step=step)
    names = None if class_names is None else list(class_names)
    clean, worst = ([(rate.accuracy, rate.interval) for rate in rates] for rates in zip(*report.per_class, strict=True))
    bars = per_class_figure({"clean": clean, "worst case": worst}, class_names=names)
    log_image(trainer, f"test/per_class{suffix}", bars, step=step)
    if report.curve is not None:
        drawn = _curve(report.curve, chance=1 / len(report.per_class))
        log_image(trainer, f"test/accuracy_curve{suffix}", drawn, step=step)
        points, title = _points(report.curve), f"Accuracy under {report.curve.attack['attack']}"
        chart = f"test/accuracy_over_eps{suffix}"
        log_curve(trainer, chart, points, x="eps", y="accuracy", title=title, step=step)
    if examples and x.dim() == 4 and x.shape[1] in (1, 3):
        device, rows = pl_module.device, most_telling(x, report.x_adv, examples)
        before, after = (images[rows.to(images.device)].to(device) for images in (x, report.x_adv))
        with evaluation(pl_module, device), torch.no_grad():
            classify = model or pl_module
            predictions, predictions_adv = (classify(images).argmax(1).cpu() for images in (before, after))
        labels = y.cpu()[rows]
        shown = adversarial_examples_figure(before, after, labels, predictions, predictions_adv, names)
        log_image(trainer, f"test/robust_evaluation_examples{suffix}", shown, step=step)
    # `trainer.test(verbose=False)` asks for silence
    if trainer.is_global_zero and trainer.test_loop.verbose:
        title = f"Accuracy under attack, {report.clean.images} test images{suffix}"
        Console().print(results_table(report.rows(), title=title))
    for flag in report.flags or ():
        rank_zero_warn(f"Sign of gradient masking ({flag.name}): {flag.message}")


def most_telling(x: Tensor, x_adv: Tensor, count: int) -> Tensor:
    """Choose which images to show: the first that an attack has changed, then others, in the order of the data.

    Args:
        x: The images, of shape ``(N, ...)``.
        x_adv: The attacked ones; clean where nothing was found.
        count: How many to choose.

    Returns:
        Places in the data, int64 on the CPU, at most ``count``.

    Example:
        >>> most_telling(torch.zeros(4, 1), torch.tensor([[0.0], [0.1], [0.0], [0.1]]), 3)
        tensor([0, 1, 3])
    """
    changed = (x != x_adv.to(x.device)).flatten(1).any(1).cpu()
    return (~changed).to(torch.uint8).argsort(stable=True)[:count].sort().values


def _rates(report: RobustnessReport) -> list[dict[str, str | float]]:
    rates = {"none": report.clean}
    for name, result in report.attacks.items():
        if len(result.stages) > 1:
            rates |= {f"{name}: {stage}": rate for stage, rate in result.stages.items()}
        rates[name] = result.robust
    if len(report.attacks) > 1:
        rates["worst case"] = report.worst_case
    return [{"attack": name, **_rate(rate)} for name, rate in rates.items()]


def _points(curve: CurveResult) -> list[dict[str, str | float]]:
    return [{"eps": eps, **_rate(rate)} for eps, rate in zip(curve.eps, curve.rates, strict=True)]


def _rate(rate: Rate) -> dict[str, str | float]:
    low, high = rate.interval
    return {"accuracy": rate.accuracy, "low": low, "high": high, "images": rate.images}


def _curve(curve: CurveResult, chance: float) -> "Figure":
    attack = str(curve.attack["attack"])
    return accuracy_curve_figure(
        curve.eps,
        {attack: [rate.accuracy for rate in curve.rates]},
        chance=chance,
        attack=attack,
        norm=curve.norm,
        intervals={attack: [rate.interval for rate in curve.rates]},
    )
