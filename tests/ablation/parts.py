"""A tiny study on the digits, its runs in the test's own process, and made-up outcomes."""

import contextlib
from pathlib import Path

from lightning_advreg.ablation import Cell, Outcome, Run, worker
from lightning_advreg.ablation.launchers import Ended, Started
from lightning_advreg.ablation.results import FINISHED

BASE = """
trainer:
  max_epochs: 1
  accelerator: cpu
  enable_model_summary: false
  num_sanity_val_steps: 0
  limit_train_batches: 4
  limit_val_batches: 1
  log_every_n_steps: 1
  callbacks: [{class_path: ModelCheckpoint, init_args: {save_last: true}}]
model:
  class_path: RegularizedClassifier
  init_args:
    network: {class_path: MNISTConvNet, init_args: {image_size: 8, width: 4, hidden: 16, dropout: 0.2}}
    penalties: [{class_path: L2, init_args: {weight: 1.0e-3}}]
    optimizer: {class_path: torch.optim.Adam, init_args: {lr: 3.0e-3}}
data:
  class_path: DigitsDataModule
  init_args: {batch_size: 32, train_size: 160, val_size: 64, loader: resident}
"""


def write_base(folder):
    path = Path(folder, "base.yaml")
    path.write_text(BASE)
    return path


class InProcess:
    """A launcher that saves the seconds that a new process takes to start."""

    def __init__(self, stop_after=None):
        self.launched = []
        self.stop_after = stop_after

    def launch(self, folders):
        for folder in folders:
            if len(self.launched) == self.stop_after:
                raise KeyboardInterrupt
            self.launched.append(folder)
            yield Started(folder=folder)
            with (folder / "log.txt").open("a") as log, contextlib.redirect_stderr(log):
                exit_code = worker.run(folder)
            yield Ended(folder=folder, exit_code=exit_code)


def outcome(cell, seed, state=FINISHED, error="", levels=None, folder=Path("runs"), **metrics):
    place = Cell(name=cell, folder=cell, levels=levels or {"variant": cell}, overrides=())
    run = Run(cell=place, seed=seed, folder=folder / cell / str(seed), config={}, fingerprint="0")
    names = {name.replace("__", "/"): value for name, value in metrics.items()}
    result = {"metrics": names, "fit_seconds": 1.0, "test_seconds": 2.0} if state == FINISHED else {}
    return Outcome(run=run, state=state, result=result, error=error)
