"""Training that goes wrong on purpose, and whether ConvergenceMonitor notices and repairs it; on MNIST in Linf.

    python -m benchmarks.convergence --data-dir DIR

- ``collapse``: FGSM without a random start, at 0.2 and 0.3, which overfits catastrophically, watched only;
- ``repaired``: that at 0.2 with ``action=["rollback", NFGSM(eps=0.2, noise=1)]``;
- ``healthy``: PGD-AT at 0.3 over five seeds, which must raise no alarm.

Each case writes a JSON file to ``--out`` (docs/results/convergence): accuracies of the monitor at every epoch, alarms,
and the share of the training time that the monitor took. A case found there is not repeated.
"""

import argparse
import json
import logging
import time
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.optim import Adam

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, NFGSM, PGD, Attack
from lightning_advreg.callbacks import ConvergenceMonitor
from lightning_advreg.data import MNISTDataModule
from lightning_advreg.networks import MNISTConvNet

_IMAGES = 20_000
_PGD = PGD(eps=0.3, step_size=0.1, steps=7)
_CASES: dict[str, dict[str, Any]] = {
    "collapse-0.3": {"attack": FGSM(eps=0.3), "epochs": 6},
    "collapse": {"attack": FGSM(eps=0.2), "epochs": 10},
    # noise of 2 eps, N-FGSM's default and made for 8/255, would cover nearly the whole range of pixels here
    "repaired": {"attack": FGSM(eps=0.2), "epochs": 10, "action": ["rollback", NFGSM(eps=0.2, noise=1)]},
    **{f"healthy-{seed}": {"attack": _PGD, "epochs": 5, "seed": seed} for seed in range(5)},
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
    parser.add_argument("--out", type=Path, default=Path("docs/results/convergence"))
    parser.add_argument("--cases", nargs="+", choices=list(_CASES), default=list(_CASES))
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.cases:
        path = options.out / f"{name}.json"
        if not path.exists():
            path.write_text(json.dumps(run(options.data_dir, **_CASES[name]), indent=2) + "\n")
        result = json.loads(path.read_text())
        last = result["epochs"][-1]
        print(f"{name}: PGD-10 {last['monitor/pgd_acc']:.3f} at the end, monitor {100 * result['monitor_share']:.1f} %")
        for alarm in result["alarms"]:
            print(f"    {alarm}")


def run(
    data_dir: Path,
    attack: Attack,
    epochs: int,
    seed: int = 0,
    action: Any = "warn",  # noqa: ANN401
) -> dict[str, Any]:
    """Train one network under the eyes of the monitor.

    Returns:
        Plain values: the figures of each epoch, the alarms in words, and the monitor's share of the time.
    """
    seed_everything(seed, verbose=False)
    data = MNISTDataModule(
        data_dir=data_dir,
        batch_size=128,
        eval_batch_size=500,
        train_size=_IMAGES,
        val_size=1_000,
        loader="resident",
    )
    model = AdversarialClassifier(
        MNISTConvNet(width=16, hidden=100),
        attack=attack,
        eps_warmup_epochs=1,
        optimizer=partial(Adam, lr=3e-3),
    )
    monitor, history = ConvergenceMonitor(action=action), History()
    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor, history],
    )
    started = time.perf_counter()
    trainer.fit(model, datamodule=data)
    seconds = time.perf_counter() - started
    return {
        "attack": repr(attack),
        "images": _IMAGES,
        "seed": seed,
        "seconds": round(seconds, 1),
        "monitor_share": round(monitor.cost.spent / seconds, 4),
        "alarms": [alarm.message for alarm in monitor.alarms],
        "epochs": history.epochs,
    }


if __name__ == "__main__":
    main()
