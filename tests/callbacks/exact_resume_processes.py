"""What test_exact_resume_ddp.py runs in two processes, started by ``python -m torch.distributed.run``."""

import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback, seed_everything

from lightning_advreg.callbacks import ExactResume

from ..modules.parts import adversarial, digits, trainer


class Signal(Callback):
    """Send SIGTERM to one of the two processes, in the middle of its step."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(folder, *callbacks, seed, ckpt_path=None):
    seed_everything(seed + int(os.environ["RANK"]), verbose=False)
    # of rank 0, as DDP makes them
    module = adversarial(constraints=())
    fitting = trainer(
        max_epochs=2,
        strategy="ddp",
        devices=2,
        default_root_dir=folder,
        callbacks=[*callbacks, ExactResume(every_n_minutes=None)],
        limit_val_batches=0,
    )
    fitting.fit(module, datamodule=digits(augment=True), ckpt_path=ckpt_path, weights_only=True)
    return {**module.state_dict(), "drawn": torch.rand(3), "steps": torch.tensor(fitting.global_step)}


def main():
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    warnings.simplefilter("ignore")
    whole, status = fit(folder / "whole", seed=0), 0
    try:
        fit(folder / "part", Signal(), seed=0)
    except SystemExit as stopped:
        status = stopped.code
    path = folder / "part" / "resume.ckpt"
    saved = torch.load(path, weights_only=True)["global_step"]
    rest = fit(folder / "part", seed=10, ckpt_path=path)
    torch.save({"whole": whole, "rest": rest, "status": status, "saved": saved}, folder / f"{rank}.pt")


if __name__ == "__main__":
    main()
