"""Test accuracy of the same network with each regulariser alone, trained on 1,000 MNIST images, over several seeds.

    python -m benchmarks.regularization --data-dir DIR --seeds 3

A seed decides the choice of the 1,000 images, the initial weights, the order of batches and dropout. All runs have the
same number of steps and the same optimizer, Adam without weight decay. Results go to a JSON file as they come, and runs
found there are not repeated.
"""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from torch.optim import Adam

from lightning_advreg import RegularizedClassifier
from lightning_advreg.constraints import MaxNorm
from lightning_advreg.data import MNISTDataModule
from lightning_advreg.networks import MNISTConvNet
from lightning_advreg.penalties import L1, L2
from lightning_advreg.reporting import markdown_table

IMAGES, EPOCHS, BATCH_SIZE = 1_000, 40, 64
Build = Callable[[], RegularizedClassifier]


def main() -> None:
    """Train, test and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder that holds MNIST/raw")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/regularization.json"))
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    done = json.loads(options.out.read_text()) if options.out.exists() else {}
    started = time.monotonic()
    for seed in range(options.seeds):
        for name, build in variants().items():
            key = f"{name}/{seed}"
            if key not in done:
                done[key] = accuracy(build, seed, options.data_dir)
                options.out.write_text(json.dumps(done, indent=2) + "\n")
                print(f"{time.monotonic() - started:5.0f} s  {key}: {100 * done[key]:.2f} %", flush=True)
    print()
    print(markdown_table([_row(name, [done[f"{name}/{s}"] for s in range(options.seeds)]) for name in variants()]))


def variants() -> dict[str, Build]:
    """Give what is compared: nothing, and each regulariser alone."""
    return {
        "none": partial(_classifier),
        "L2 (1e-3)": partial(_classifier, penalties=[L2(1e-3)]),
        "L1 (1e-4)": partial(_classifier, penalties=[L1(1e-4)]),
        "max-norm (1)": partial(_classifier, constraints=[MaxNorm(1.0)]),
        "dropout (0.5)": partial(_classifier, dropout=0.5),
    }


def accuracy(build: Build, seed: int, data_dir: Path) -> float:
    """Train one network and give its accuracy on all 10,000 test images."""
    seed_everything(seed, verbose=False)
    data = MNISTDataModule(
        data_dir=data_dir,
        batch_size=BATCH_SIZE,
        eval_batch_size=500,
        train_size=IMAGES,
        val_size=0,
        seed=seed,
        loader="resident",
    )
    trainer = Trainer(
        max_epochs=EPOCHS,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = build()
    trainer.fit(model, datamodule=data)
    (metrics,) = trainer.test(model, datamodule=data, verbose=False)
    return float(metrics["test/acc"])


def _classifier(
    dropout: float = 0.0, penalties: list[L1 | L2] | None = None, constraints: list[MaxNorm] | None = None
) -> RegularizedClassifier:
    network = MNISTConvNet(width=32, hidden=256, dropout=dropout)
    return RegularizedClassifier(
        network, penalties=penalties or (), constraints=constraints or (), optimizer=partial(Adam, lr=1e-3)
    )


def _row(name: str, accuracies: list[float]) -> dict[str, str | float]:
    percent = [100 * accuracy for accuracy in accuracies]
    spread = statistics.stdev(percent) if len(percent) > 1 else 0.0
    return {
        "regulariser": name,
        "mean (%)": f"{statistics.mean(percent):.2f}",
        "standard deviation": f"{spread:.2f}",
        "each seed (%)": ", ".join(f"{value:.2f}" for value in percent),
    }


if __name__ == "__main__":
    main()
