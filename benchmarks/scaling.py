"""Images per second of adversarial training on 1, 2 and 4 processes with one thread each, and the efficiency.

Every process trains on batches of its own size (weak scaling), so that perfect scaling is N times the images per second
of one process. Numbers of processes take turns, and each ratio is the median over rounds, so that a busy machine slows
them alike. Processes beyond the cores of the machine share them, and the table says so. On a GPU one is measured,
and more are projected from the time of an all-reduce at a bandwidth that is assumed; the table marks that.

    python -m benchmarks.scaling                              # 1, 2 and 4 processes on the CPU
    python -m benchmarks.scaling --processes 1 2 --rounds 3 --out scaling.png
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import torch

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks import MultiGPUScaling
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.networks import MNISTConvNet
from lightning_advreg.reporting import save_figure, scaling_figure

# bytes per second of a ring of GPUs, and seconds per message: assumptions of the projection
_BANDWIDTH, _LATENCY = 80e9, 1e-5


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=7, help="of PGD")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batches", type=int, default=40, help="per epoch and process")
    parser.add_argument("--width", type=int, default=32, help="of the network")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default=None, help="a picture")
    parser.add_argument("--train", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train is not None:
        train(options, Path(options.train))
        return
    counts = [1] if options.device == "cuda" else sorted({1, *options.processes})
    rounds = [{count: measure(options, count) for count in counts} for _ in range(options.rounds)]
    speeds = {count: statistics.median(each[count]["images_per_second"] for each in rounds) for count in counts}
    print(f"torch {torch.__version__}, {rounds[0][1]['device']}, {os.cpu_count()} cores, one thread per process,")
    print(f"PGD-{options.steps}, batches of {options.batch_size} per process, rounds: {options.rounds}\n")
    print(
        "| processes | images/s | attack passes/s | efficiency | lost in communication | |\n|---|---|---|---|---|---|"
    )
    for count in counts:
        passes = statistics.median(each[count]["attack_passes_per_second"] for each in rounds)
        ratio = statistics.median(
            each[count]["images_per_second"] / (count * each[1]["images_per_second"]) for each in rounds
        )
        lost = [each[count]["lost_in_communication"] for each in rounds]
        share = "" if None in lost else f"{statistics.median(lost):.1%}"
        print(f"| {count} | {speeds[count]:.0f} | {passes:.0f} | {ratio:.1%} | {share} | {shared(options, count)} |")
    if options.device == "cuda":
        project(options, rounds[0][1], speeds[1])
    if options.out is not None:
        save_figure(scaling_figure(speeds), options.out)


def shared(options: argparse.Namespace, count: int) -> str:
    """Say where processes share cores."""
    cores = os.cpu_count() or 1
    return f"{count} processes share {cores} cores" if options.device == "cpu" and count > cores else ""


def measure(options: argparse.Namespace, count: int) -> dict[str, float]:
    """Train in so many processes, and give their ``scaling.json``."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count)]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "benchmarks.scaling"]
        command += ["--train", folder, "--processes", str(count), "--device", options.device]
        for name in ("batch_size", "steps", "epochs", "batches", "width"):
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stderr=subprocess.DEVNULL)
        record: dict[str, float] = json.loads(Path(folder, "scaling.json").read_text())
        return record


def train(options: argparse.Namespace, folder: Path) -> None:
    """Train in this process, one of those that were started together."""
    warnings.simplefilter("ignore")
    (count,) = options.processes
    torch.manual_seed(0)
    model = AdversarialClassifier(
        MNISTConvNet(image_size=8, width=options.width, norm="group"),
        PGD(eps=0.2, step_size=0.05, steps=options.steps),
        optimizer=partial(torch.optim.SGD, lr=0.01),
    )
    trainer = pl.Trainer(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=count,
        strategy="ddp" if count > 1 else "auto",
        max_epochs=options.epochs,
        limit_train_batches=options.batches,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[MultiGPUScaling("linear")],
    )
    trainer.fit(model, datamodule=DigitsDataModule(batch_size=options.batch_size, loader="resident"))


def project(options: argparse.Namespace, record: dict[str, float], speed: float) -> None:
    """Print what more GPUs would give if nothing of an all-reduce were hidden; nothing of it is measured."""
    size, step = 4 * record["parameters"], options.batch_size / speed
    print(f"\nProjected, not measured: a ring at {_BANDWIDTH / 1e9:g} GB/s and {1e6 * _LATENCY:g} µs per message\n")
    print("| GPUs | images/s | efficiency |\n|---|---|---|")
    for count in (2, 4, 8):
        wait = 2 * (count - 1) / count * size / _BANDWIDTH + 2 * (count - 1) * _LATENCY
        print(f"| {count} | {count * options.batch_size / (step + wait):.0f} | {step / (step + wait):.1%} |")


if __name__ == "__main__":
    main()
