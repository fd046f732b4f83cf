"""Training that goes wrong on purpose, and whether ConvergenceMonitor notices and repairs it; in Linf.

    python -m benchmarks.convergence --data-dir DIR [--cifar10 FILE.npz]

On 20,000 images of MNIST:

- ``collapse``: FGSM without a random start, at 0.2 and 0.3, which overfits catastrophically, watched only;
- ``repaired``: that at 0.2 with ``action=["rollback", NFGSM(eps=0.2, noise=1)]``;
- ``healthy``: PGD-AT at 0.3 over five seeds, which must raise no alarm.

On CIFAR-10, from a file for ``ArrayDataModule``, at 8/255:

- ``robust``: PGD-AT on 2,000 images without augmentation over three seeds, which overfits robustly, watched only;
- ``robust-stopped``: the same with ``action=["rollback", "stop"]``;
- ``robust-awp``: the same with AWP and a WeightAverage, watched only;
- ``healthy-cifar10``: PGD-AT on 6,000 images with augmentation over three seeds, which must raise no alarm.

Each case writes a JSON file to ``--out`` (docs/results/convergence): accuracies of the monitor at every epoch, alarms,
the share of the training time that the monitor took, and on CIFAR-10 the accuracy of the final network on 2,000
test images, clean and under PGD-20.
A case found there is not repeated.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.optim import Adam

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, NFGSM, PGD, Attack
from lightning_advreg.callbacks import ConvergenceMonitor, WeightAverage
from lightning_advreg.data import ArrayDataModule, MNISTDataModule
from lightning_advreg.networks import MNISTConvNet
from lightning_advreg.perturbations import AWP

_TEST_IMAGES = 2_000


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training under the eyes of the monitor.

    Args:
        attack: The training attack.
        images: How many training images.
        epochs: How many epochs.
        seed: Of everything.
        action: That of the monitor.
        monitored: How many images the monitor may look at.
        max_cost: The share of the time that it may take.
        cifar10: Whether the images are of CIFAR-10; else of MNIST.
        augment: Whether they are shifted and flipped.
        awp: Whether to train with AWP and an average of the weights.
    """

    attack: Attack
    images: int = 20_000
    epochs: int
    seed: int = 0
    action: Any = "warn"
    monitored: int = 256
    max_cost: float = 0.05
    cifar10: bool = False
    augment: bool = False
    awp: bool = False


_PGD7 = PGD(eps=0.3, step_size=0.1, steps=7)
# epochs of 2,000 images are too short to look at 512 within 5 % of the time
_ROBUST = partial(
    Case,
    attack=PGD(eps=8 / 255, step_size=2.5 / 255, steps=5),
    images=2_000,
    epochs=30,
    monitored=512,
    max_cost=1.0,
    cifar10=True,
)
_CASES: dict[str, Case] = {
    "collapse-0.3": Case(attack=FGSM(eps=0.3), epochs=6),
    "collapse": Case(attack=FGSM(eps=0.2), epochs=10),
    # noise of 2 eps, N-FGSM's default and made for 8/255, would cover nearly the whole range of pixels here
    "repaired": Case(attack=FGSM(eps=0.2), epochs=10, action=["rollback", NFGSM(eps=0.2, noise=1)]),
    **{f"healthy-{seed}": Case(attack=_PGD7, epochs=5, seed=seed) for seed in range(5)},
    **{f"robust-{seed}": _ROBUST(seed=seed) for seed in range(3)},
    "robust-stopped": _ROBUST(action=["rollback", "stop"]),
    "robust-awp": _ROBUST(awp=True),
    **{f"healthy-cifar10-{seed}": _ROBUST(seed=seed, images=6_000, epochs=12, augment=True) for seed in range(3)},
}


class History(Callback):
    """What the monitor logged in each epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the figures."""
        figures: Mapping[str, Any] = trainer.callback_metrics
        found = {name: round(float(value), 4) for name, value in figures.items() if name.startswith("monitor/")}
        self.epochs.append({"epoch": trainer.current_epoch, **found, "clean": round(float(figures["val/acc"]), 4)})


def main() -> None:
    """Run the cases and print their alarms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder that holds MNIST/raw")
    parser.add_argument("--cifar10", type=Path, help="CIFAR-10 as x_train, y_train, x_test, y_test in an .npz file")
    parser.add_argument("--out", type=Path, default=Path("docs/results/convergence"))
    parser.add_argument("--cases", nargs="+", choices=list(_CASES), help="those of MNIST, and with --cifar10 all")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.cases or [name for name, case in _CASES.items() if options.cifar10 or not case.cifar10]:
        path = options.out / f"{name}.json"
        if not path.exists():
            if _CASES[name].cifar10 and options.cifar10 is None:
                parser.error(f"case {name} needs --cifar10 FILE.npz")
            path.write_text(json.dumps(run(_CASES[name], options.data_dir, options.cifar10), indent=2) + "\n")
        result = json.loads(path.read_text())
        last = result["epochs"][-1]
        print(f"{name}: PGD-10 {last['monitor/pgd_acc']:.3f} at the end, monitor {100 * result['monitor_share']:.1f} %")
        for alarm in result["alarms"]:
            print(f"    {alarm}")


def run(case: Case, data_dir: Path, cifar10: Path | None) -> dict[str, Any]:
    """Train one network under the eyes of the monitor.

    Args:
        case: What to train.
        data_dir: The folder that holds ``MNIST/raw``.
        cifar10: The file of CIFAR-10, where the case needs it.

    Returns:
        Plain values: the figures of each epoch, the alarms in words, and the monitor's share of the time.
    """
    seed_everything(case.seed, verbose=False)
    model = AdversarialClassifier(
        MNISTConvNet(width=16, hidden=200, in_channels=3, image_size=32, norm="batch")
        if case.cifar10
        else MNISTConvNet(width=16, hidden=100),
        attack=case.attack,
        eps_warmup_epochs=0 if case.cifar10 else 1,
        weight_perturbation=AWP() if case.awp else None,
        optimizer=partial(Adam, lr=2e-3 if case.cifar10 else 3e-3),
    )
    monitor = ConvergenceMonitor(action=case.action, max_samples=case.monitored, max_cost=case.max_cost)
    history = History()
    # an average over the last two epochs or so
    average = [WeightAverage(decay=0.97, use_in_test=False, swap_at_end=True)] if case.awp else []
    trainer = Trainer(
        max_epochs=case.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor, history, *average],
    )
    data = _data(case, data_dir, cifar10)
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - started
    return {
        "attack": repr(case.attack),
        "images": case.images,
        "seed": case.seed,
        "seconds": round(seconds, 1),
        "monitor_share": round(monitor.cost.spent / seconds, 4),
        "alarms": [alarm.message for alarm in monitor.alarms],
        **({"test": tested(model, data)} if case.cifar10 else {}),
        "epochs": history.epochs,
    }


def tested(model: AdversarialClassifier, data: ArrayDataModule | MNISTDataModule) -> dict[str, float]:
    """Give the accuracy of some test images, clean and under PGD-20."""
    data.setup("test")
    assert data.test_set is not None
    # files may be sorted by class
    order = torch.randperm(len(data.test_set), generator=torch.Generator().manual_seed(0))
    attack = PGD(eps=8 / 255, step_size=2 / 255, steps=20, seed=0)
    model.eval()
    right = {"clean": 0, "pgd20": 0}
    for start in range(0, _TEST_IMAGES, 250):
        images, labels = data.test_set.__getitems__(order[start : start + 250].tolist())
        for name, seen in (("clean", images), ("pgd20", attack(model, images, labels))):
            with torch.no_grad():
                right[name] += int((model(seen).argmax(1) == labels).sum())
    return {name: count / _TEST_IMAGES for name, count in right.items()}


def _data(case: Case, data_dir: Path, cifar10: Path | None) -> ArrayDataModule | MNISTDataModule:
    settings: dict[str, Any] = {
        "batch_size": 128,
        "eval_batch_size": 500,
        "train_size": case.images,
        "val_size": 1_000,
        "augment": case.augment,
        "loader": "resident",
    }
    if not case.cifar10:
        return MNISTDataModule(data_dir=data_dir, **settings)
    assert cifar10 is not None
    return ArrayDataModule(cifar10, seed=case.seed, **settings)


if __name__ == "__main__":
    main()
