"""The demonstration: the same small network trained plainly and adversarially, attacked, and compared."""

import argparse
import logging
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from rich.console import Console
from torch import Tensor
from torch.optim import Adam

from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.callbacks import RobustAccuracy
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.files import write_json
from lightning_advreg.modules import AdversarialClassifier, LinearOneCycle, RegularizedClassifier
from lightning_advreg.networks import MNISTConvNet
from lightning_advreg.reporting import (
    accuracy_curve_figure,
    adversarial_examples_figure,
    results_table,
    save_figure,
)

EPS = 0.2
"""The budget of the attacks, Linf, in pixel units on [0, 1]."""

TRAIN_ATTACK = PGD(eps=EPS, step_size=EPS / 4, steps=7)
TEST_ATTACKS = {"fgsm": FGSM(eps=EPS), "pgd50": PGD(eps=EPS, step_size=EPS / 10, steps=50, seed=0)}
CURVE = (0.0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24, 0.28, 0.32, 0.4)


def main(args: Sequence[str] | None = None) -> None:
    """Train, attack, and leave a table, two pictures and ``results.json``.

    Args:
        args: Command-line arguments: ``--out``, ``--epochs``, ``--seed``.
    """
    parser = argparse.ArgumentParser(prog="lightning-advreg demo", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder to write to (runs/demo)")
    parser.add_argument("--epochs", type=int, default=30, help="training epochs of each network (30)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and attacks (0)")
    options = parser.parse_args(args)
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")
    _quieten()
    started = time.monotonic()
    console = Console()
    data = DigitsDataModule(batch_size=64, loader="resident")
    models = {
        "undefended": _train("plainly", None, data, options),
        "defended": _train("under attack", TRAIN_ATTACK, data, options),
    }
    rows: list[dict[str, str | float]] = [
        {"network": name, **_test(model, data, options.out / name)} for name, model in models.items()
    ]
    x, y = _test_set(data)
    _draw_examples(models["undefended"], x, y, options.out / "adversarial_examples_undefended.png")
    _draw_examples(models["defended"], x, y, options.out / "adversarial_examples_defended.png")
    curves = {name: _accuracy_curve(model, x, y) for name, model in models.items()}
    figure = accuracy_curve_figure(CURVE, curves, chance=1 / data.num_classes, attack="PGD-50")
    save_figure(figure, options.out / "accuracy_vs_eps.png")
    results = {"eps": EPS, "images": len(y), "seed": options.seed, "rows": rows, "curve": {"eps": CURVE, **curves}}
    write_json(options.out / "results.json", results)
    console.print(results_table(rows, title=f"Test accuracy on {len(y)} digits, attacks with Linf eps {EPS}"))
    console.print(f"{time.monotonic() - started:.0f} s. Pictures and numbers are in {options.out}:")
    for path in sorted(options.out.glob("*.*")):
        console.print(f"  {path}")


def _train(how: str, attack: PGD | None, data: DigitsDataModule, options: argparse.Namespace) -> LightningModule:
    seed_everything(options.seed, verbose=False)
    network = MNISTConvNet(image_size=8, width=32)
    settings = {"optimizer": partial(Adam, lr=3e-3), "lr_scheduler": partial(LinearOneCycle, warmup=0.3)}
    model: LightningModule
    if attack is None:
        model = RegularizedClassifier(network, **settings)  # type: ignore[arg-type]
    else:
        warmup = options.epochs / 4
        model = AdversarialClassifier(network, attack=attack, eps_warmup_epochs=warmup, **settings)  # type: ignore[arg-type]
    Console().print(f"Training {how} ({options.epochs} epochs)")
    _trainer(options.out, max_epochs=options.epochs).fit(model, datamodule=data)
    return model


def _test(model: LightningModule, data: DigitsDataModule, folder: Path) -> dict[str, float]:
    trainer = _trainer(folder, callbacks=[RobustAccuracy(TEST_ATTACKS)])
    (metrics,) = trainer.test(model, datamodule=data, verbose=False)
    return {
        "clean accuracy": metrics["test/acc"],
        "FGSM accuracy": metrics["test/robust_acc/fgsm"],
        "PGD-50 accuracy": metrics["test/robust_acc/pgd50"],
    }


def _trainer(folder: Path, **settings: object) -> Trainer:
    return Trainer(
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,  # type: ignore[arg-type]
    )


def _test_set(data: DigitsDataModule) -> tuple[Tensor, Tensor]:
    images, labels = zip(*data.test_dataloader(), strict=True)
    return torch.cat(images), torch.cat(labels)


@torch.no_grad()
def _accuracy_curve(model: LightningModule, x: Tensor, y: Tensor) -> list[float]:
    model.eval()
    attack = TEST_ATTACKS["pgd50"]
    accuracies = [(model(attack.scaled(eps / EPS)(model, x, y)).argmax(1) == y).float().mean() for eps in CURVE]
    return [round(float(accuracy), 4) for accuracy in accuracies]


@torch.no_grad()
def _draw_examples(model: LightningModule, x: Tensor, y: Tensor, path: Path, count: int = 8) -> None:
    model.eval()
    x, y = x[:count], y[:count]
    x_adv = TEST_ATTACKS["pgd50"](model, x, y)
    save_figure(adversarial_examples_figure(x, x_adv, y, model(x).argmax(1), model(x_adv).argmax(1)), path)


def _quieten() -> None:
    # a newcomer's first minute should show the work, not advice on workers and hardware
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(many workers|LeafSpec).*")
