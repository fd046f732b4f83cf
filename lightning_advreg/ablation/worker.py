"""What the process of one run does: ``fit``, ``test``, and its results in one file.

It is started by a launcher as ``python -m lightning_advreg.ablation.worker FOLDER``, and ends when the launcher does.
"""

import os
import platform
import signal
import sys
import threading
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor

from lightning_advreg.ablation.folders import (
    CONFIG,
    ERROR,
    FIT,
    RESULT,
    STARTS,
    checkpoint_to_resume,
    logged,
    read_json,
)
from lightning_advreg.cli import RunFolderCLI, main
from lightning_advreg.files import write_json
from lightning_advreg.modules import Classifier

FOLDER = "LIGHTNING_ADVREG_RUN_FOLDER"
"""The variable that tells the processes of further devices the folder of their run."""

_PACKAGES = ("torch", "lightning")


def execute(folder: Path) -> None:
    """Train and test one run, from wherever it was left.

    Args:
        folder: The run's folder, with its ``run.yaml``.
    """
    starts = read_json(folder / STARTS) or {"starts": 0}
    if os.environ.get("LOCAL_RANK", "0") == "0":
        write_json(folder / STARTS, {"starts": starts["starts"] + 1})
    fitted = read_json(folder / FIT)
    if fitted is None:
        fitted = _fit(folder)
        write_json(folder / FIT, fitted)
    started = time.monotonic()
    cli = main(["test", "--config", str(folder / CONFIG), "--ckpt_path", fitted["checkpoint"]])
    assert cli is not None
    if not cli.trainer.is_global_zero:
        return
    tested = read_json(folder / "test" / "results.json")
    assert tested is not None
    metrics = _last_logged(folder) | tested["metrics"]
    train_acc = train_accuracy(cli.model, cli.datamodule, cli.trainer.strategy.root_device)
    if train_acc is not None and cli.trainer.world_size == 1:
        metrics["train/final_acc"] = train_acc
    result = {
        "metrics": metrics,
        "fit_seconds": fitted["seconds"],
        "test_seconds": round(time.monotonic() - started, 2),
        "starts": starts["starts"] + 1,
        **_hardware(cli),
    }
    write_json(folder / RESULT, result)


@torch.no_grad()
def train_accuracy(module: LightningModule, data: object, device: torch.device) -> float | None:
    """Measure a classifier on its training batches, weights fixed and dropout off.

    The accuracy that training logs is one of weights in motion, with dropout and under attack; the generalisation gap
    needs this one. It costs a forward pass over the training set.

    Args:
        module: The trained module.
        data: Its data module.
        device: Where to run.

    Returns:
        The fraction of images that are right; None for modules that are no classifiers of this library.
    """
    if not isinstance(module, Classifier) or not isinstance(data, LightningDataModule):
        return None
    data.setup("fit")
    module.to(device).eval()
    right, total = torch.zeros((), dtype=torch.long, device=device), 0
    for x, y in data.train_dataloader():
        x, y = _on(x, device), _on(y, device)
        right += (module(x).argmax(1) == y).sum()
        total += len(y)
    return float(right) / total if total else None


def _on(values: Tensor, device: torch.device) -> Tensor:
    return values.to(device, non_blocking=True)


def _fit(folder: Path) -> dict[str, Any]:
    started = time.monotonic()
    arguments = ["fit", "--config", str(folder / CONFIG)]
    last = checkpoint_to_resume(folder)
    if last is not None:
        arguments += ["--ckpt_path", str(last)]
    cli = main(arguments)
    assert cli is not None
    if cli.trainer.interrupted:
        raise KeyboardInterrupt
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        # the configuration keeps no last checkpoint; the test is of the last weights all the same
        cli.trainer.save_checkpoint(checkpoint)
    return {"checkpoint": str(checkpoint), "seconds": round(time.monotonic() - started, 2)}


def _last_logged(folder: Path) -> dict[str, float]:
    """Give the last value of everything that was logged in training and validation."""
    last: dict[str, float] = {}
    for epoch in logged(folder):
        last |= {name: value for name, value in epoch.items() if name.startswith(("train/", "val/"))}
    return last


def _hardware(cli: RunFolderCLI) -> dict[str, Any]:
    device = cli.trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    packages = {package: version(package) for package in _PACKAGES}
    return {
        "device": f"{cli.trainer.world_size} x {device.type} ({name})",
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "lightning_advreg": _own_version(), **packages},
    }


def _own_version() -> str:
    from lightning_advreg import __version__

    return __version__


def _end_with_the_launcher() -> None:
    """End this process, and those it has started, when whoever holds the other end of its standard input is gone."""
    # not through sys.stdin, whose lock would be held when the interpreter shuts down
    while os.read(0, 1024):
        pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def run(folder: Path) -> int:
    """Execute a run, and keep its error if it fails.

    Args:
        folder: The run's folder.

    Returns:
        The exit status: 0, or 1 after an error.
    """
    try:
        execute(folder)
    except (Exception, SystemExit) as error:
        text = traceback.format_exc()
        sys.stderr.write(text)
        said = str(error).strip().splitlines()
        summary = f"{type(error).__name__}: {said[0] if said else 'no message'}"
        write_json(folder / ERROR, {"error": summary, "traceback": text})
        return 1
    return 0


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    # no argument, which LightningCLI would warn of; Lightning starts the processes of further devices without it
    if len(sys.argv) > 1:
        os.environ[FOLDER] = sys.argv.pop()
    sys.exit(run(Path(os.environ[FOLDER])))
