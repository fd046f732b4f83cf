"""Adversarial training methods side by side on MNIST, Linf 0.3: the same small network, data, epochs and optimizer.

    python -m benchmarks.methods --data-dir DIR --seeds 0 1 2
    python -m benchmarks.methods --table

Each run leaves a JSON file in ``--out`` (docs/results/mnist), and is not repeated where there is one. ``--table``
writes docs/results/mnist.md from these files alone. A seed decides the initial weights, the order of batches and the
attacks' random starts. Accuracy is that on all test images, and under attack on the first: PGD-40 on 1,000, and the
``fast`` AutoAttack (APGD-CE and APGD-T, 100 steps each) on 200, as each row says.
"""

import argparse
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Trainer, seed_everything
from torch.optim import Adam

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, NFGSM, PGD, AutoAttack
from lightning_advreg.data import MNISTDataModule
from lightning_advreg.evaluation import evaluate_robustness
from lightning_advreg.modules import LinearOneCycle
from lightning_advreg.networks import MNISTConvNet
from lightning_advreg.objectives import MART, PGDAT, TRADES, GradAlign, NuAT
from lightning_advreg.perturbations import AWP
from lightning_advreg.reporting import markdown_table

EPS, EPOCHS, BATCH_SIZE, LEARNING_RATE = 0.3, 3, 128, 3e-3
PGD_IMAGES, AUTOATTACK_IMAGES = 1_000, 200
_PGD = PGD(eps=EPS, step_size=0.1, steps=7)
_FGSM_RS = FGSM(eps=EPS, step_size=0.24, random_start=True)

_TEXT = """# Adversarial training on MNIST, Linf {eps}

Written by `python -m benchmarks.methods --table` from the files in `{folder}/`, which
`python -m benchmarks.methods --data-dir DIR` leaves.

The small CNN of 166,406 parameters, {epochs} epochs of batches of {batch_size}, Adam with a one-cycle schedule: short
runs, to compare methods rather than to set records. Mean and standard deviation over seeds, in percent. Clean
accuracy is on {images[clean]:,} test images, PGD-40 on the first {images[pgd40]:,}, the `fast` AutoAttack (APGD-CE and
APGD-T) on the first {images[autoattack_fast]:,}. Seconds: the quickest training, since other work ran beside:
{hardware}, torch {torch}.

{rows}
"""


def main() -> None:
    """Train, evaluate, and print a line a run; or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder that holds MNIST/raw")
    parser.add_argument("--methods", nargs="+", choices=list(methods()), default=list(methods()))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("docs/results/mnist"))
    parser.add_argument("--table", action="store_true", help="write OUT.md from the files in OUT")
    options = parser.parse_args()
    if options.table:
        options.out.with_suffix(".md").write_text(table(options.out))
        return
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for name in options.methods:
            path = options.out / f"{name}-{seed}.json"
            if not path.exists():
                result = run(name, seed, options.data_dir)
                path.write_text(json.dumps(result, indent=2) + "\n")
                print(
                    f"{path}: " + ", ".join(f"{key} {result[key]}" for key in ("seconds", "clean", "pgd40")), flush=True
                )


def methods() -> dict[str, Callable[[], AdversarialClassifier]]:
    """Give what is compared."""
    return {
        "pgd_at": partial(_classifier, attack=_PGD, objective=PGDAT()),
        "trades": partial(_classifier, attack=_PGD, objective=TRADES(beta=6)),
        "mart": partial(_classifier, attack=_PGD, objective=MART(beta=5)),
        "pgd_at_awp": partial(_classifier, attack=_PGD, objective=PGDAT(), weight_perturbation=AWP(gamma=0.005)),
        "fgsm_rs": partial(_classifier, attack=_FGSM_RS, objective=PGDAT()),
        "nfgsm": partial(_classifier, attack=NFGSM(eps=EPS, noise=1.0), objective=PGDAT()),
        "gradalign": partial(_classifier, attack=FGSM(eps=EPS), objective=GradAlign(weight=0.2)),
        "nuat": partial(_classifier, attack=FGSM(eps=EPS), objective=NuAT(weight=4)),
    }


def run(name: str, seed: int, data_dir: Path) -> dict[str, Any]:
    """Train one network and evaluate it.

    Returns:
        Plain values: settings, seconds of training, and accuracies with the images they stand on.
    """
    seed_everything(seed, verbose=False)
    data = MNISTDataModule(
        data_dir=data_dir, batch_size=BATCH_SIZE, eval_batch_size=500, val_size=0, seed=seed, loader="resident"
    )
    trainer = Trainer(
        max_epochs=EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = methods()[name]()
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - started
    (metrics,) = trainer.test(model, datamodule=data, verbose=False)
    x, y = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    pgd = PGD(eps=EPS, step_size=0.01, steps=40, seed=0, stop_at_success=True)
    robust = {
        key: evaluate_robustness(model.network, x[:count], y[:count], {key: attack}, masking=False).attacks[key].robust
        for key, attack, count in (
            ("pgd40", pgd, PGD_IMAGES),
            ("autoattack_fast", AutoAttack(eps=EPS, version="fast", seed=0), AUTOATTACK_IMAGES),
        )
    }
    return {
        "method": name,
        "seed": seed,
        "hyper_parameters": dict(model.hparams),
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "seconds": round(seconds, 1),
        "clean": round(float(metrics["test/acc"]), 4),
        **{key: rate.accuracy for key, rate in robust.items()},
        "images": {"clean": len(x), **{key: rate.images for key, rate in robust.items()}},
        "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)",
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }


def table(folder: Path) -> str:
    """Write Markdown from the files of a folder.

    Raises:
        FileNotFoundError: If the folder holds no runs.
    """
    runs = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not runs:
        raise FileNotFoundError(f"{folder} holds no runs; run python -m benchmarks.methods first.")
    by_method = {name: [found for found in runs if found["method"] == name] for name in methods()}
    rows = [_row(name, found) for name, found in by_method.items() if found]
    return _TEXT.format(eps=EPS, folder=folder.name, rows=markdown_table(rows), **runs[0])


def _row(name: str, runs: list[dict[str, Any]]) -> dict[str, str | float]:
    def spread(key: str, factor: float, digits: int) -> str:
        values = [factor * float(found[key]) for found in runs]
        deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{deviation}"

    return {
        "method": name,
        "seeds": str(len(runs)),
        "clean": spread("clean", 100, 2),
        "PGD-40": spread("pgd40", 100, 1),
        "AutoAttack fast": spread("autoattack_fast", 100, 1),
        "seconds": f"{min(float(found['seconds']) for found in runs):.0f}",
    }


def _classifier(**arguments: Any) -> AdversarialClassifier:  # noqa: ANN401
    return AdversarialClassifier(
        MNISTConvNet(width=16, hidden=100),
        eps_warmup_epochs=1,
        optimizer=partial(Adam, lr=LEARNING_RATE),
        lr_scheduler=LinearOneCycle,
        **arguments,
    )


if __name__ == "__main__":
    main()
