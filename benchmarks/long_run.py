"""A long run of each module with the usual callbacks: does memory stay flat, and are files bounded?

Small networks on the embedded digits, 20 batches to an epoch, each module in a process of its own. At the start of
every epoch the resident memory, the tensors and Python objects alive, open file descriptors and the files in the run
folder are counted. Slopes are least-squares fits from step 200 on, when everything has been made once.

    python -m benchmarks.long_run                          # 2,000 steps of each module, some minutes on one core
    python -m benchmarks.long_run --modules gan --steps 400

The exit status is 1 where something grows faster than ``LIMITS`` has it. Pictures, one for each time that they are due,
and the rows of ``metrics.csv`` are what a run is to leave, and are reported only.
"""

import argparse
import gc
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from benchmarks.usual import adversarial, gan, regularized, usual_callbacks
from lightning_advreg.data import DigitsDataModule

MODULES: dict[str, Callable[[], LightningModule]] = {"adversarial": adversarial, "regularized": regularized, "gan": gan}
STEPS_PER_EPOCH = 20
BATCH_SIZE = 32
FROM = 200
"""The step from which memory is compared: pictures, evaluations and checkpoints have been made by then."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is there at one moment of a run.

    Attributes:
        step: Batches trained on so far.
        seconds: Since training began.
        resident: Memory of the process, in bytes.
        tensors: Tensors alive.
        graphs: Those of them that hold a graph of autograd.
        objects: Python objects alive, as far as the garbage collector knows them.
        descriptors: Open files and sockets.
        files: Files in the run folder, without pictures.
        pictures: Pictures in the run folder.
        written: Bytes of the files, without pictures and ``metrics.csv``.
        temporary: Files in the folder for temporary files.
    """

    step: int
    seconds: float
    resident: int
    tensors: int
    graphs: int
    objects: int
    descriptors: int
    files: int
    pictures: int
    written: int
    temporary: int


LIMITS = {
    "resident": 4 * 2**20,
    "tensors": 20.0,
    "graphs": 1.0,
    "objects": 4000.0,
    "descriptors": 1.0,
    "files": 1.0,
    "written": 2.0**19,
    "temporary": 1.0,
}
"""How much each figure may grow in 1,000 steps."""


class Gauge(Callback):
    """Takes a :class:`Sample` at the start of every epoch, and at the end.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.samples: list[Sample] = []
        self._steps, self._began = 0, time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:  # noqa: ANN401
        """Count."""
        self._steps += 1

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take a sample."""
        self.samples.append(self._sample())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the last sample."""
        self.samples.append(self._sample())

    def _sample(self) -> Sample:
        # before garbage is collected, since that is what a run takes
        resident = resident_memory()
        gc.collect()
        objects = gc.get_objects()
        # by the type, since some objects import a library when they are asked for their class
        tensors = [one for one in objects if issubclass(type(one), Tensor)]
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        pictures = [path for path in files if path.suffix in (".png", ".gif")]
        rest = [path for path in files if path not in pictures]
        return Sample(
            step=self._steps,
            seconds=time.perf_counter() - self._began,
            resident=resident,
            tensors=len(tensors),
            graphs=sum(tensor.grad_fn is not None for tensor in tensors),
            objects=len(objects),
            descriptors=len(os.listdir("/proc/self/fd")),
            files=len(rest),
            pictures=len(pictures),
            written=sum(path.stat().st_size for path in rest if path.name != "metrics.csv"),
            temporary=len(list(Path(tempfile.gettempdir()).iterdir())),
        )


def resident_memory() -> int:
    """Give the resident memory of this process in bytes, as Linux counts it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run(module: str, steps: int, folder: Path, more: Sequence[Callback] = ()) -> tuple[list[Sample], Trainer]:
    """Train a module for so many steps.

    Args:
        module: Its name among ``MODULES``.
        steps: Batches, a multiple of those of an epoch.
        folder: The run folder, which must be empty.
        more: Further callbacks.

    Returns:
        The samples and the Trainer.
    """
    seed_everything(0, verbose=False)
    data = DigitsDataModule(
        batch_size=BATCH_SIZE, train_size=STEPS_PER_EPOCH * BATCH_SIZE, val_size=128, loader="resident"
    )
    gauge = Gauge(folder)
    callbacks = [
        # the first, so that its samples follow all that the epoch before has left
        gauge,
        *usual_callbacks(module),
        *more,
        LearningRateMonitor(),
        ModelCheckpoint(save_last=True),
    ]
    trainer = Trainer(
        max_epochs=steps // STEPS_PER_EPOCH,
        accelerator="cpu",
        logger=CSVLogger(str(folder), name="", version="", flush_logs_every_n_steps=1),
        default_root_dir=folder,
        callbacks=callbacks,
        log_every_n_steps=10,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(MODULES[module](), datamodule=data)
    return gauge.samples, trainer


def slope(samples: Sequence[Sample], name: str, since: int = FROM) -> float:
    """Give the growth of a figure per 1,000 steps, from a step on."""
    late = [sample for sample in samples if sample.step >= since]
    x = torch.tensor([sample.step for sample in late], dtype=torch.float64)
    y = torch.tensor([getattr(sample, name) for sample in late], dtype=torch.float64)
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum() * 1000)


def growing(
    samples: Sequence[Sample], since: int = FROM, limits: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Give the figures that grow faster than they may from a step on, with their growth per 1,000 steps."""
    limits = LIMITS if limits is None else limits
    slopes = {name: slope(samples, name, since) for name in limits}
    return {name: found for name, found in slopes.items() if found > limits[name]}


def row(module: str, samples: Sequence[Sample], folder: Path) -> str:
    """Give the line of the table."""
    early = next(sample for sample in samples if sample.step >= FROM)
    last = samples[-1]
    table = folder / "metrics.csv"
    lines = sum(1 for _ in table.open(encoding="utf-8"))
    mib = 2**20
    cells = [
        module,
        f"{last.step:,}",
        f"{early.resident / mib:.1f}",
        f"{last.resident / mib:.1f}",
        f"{slope(samples, 'resident') / mib:+.2f}",
        f"{early.tensors} / {last.tensors}",
        f"{early.objects:,} / {last.objects:,}",
        f"{early.descriptors} / {last.descriptors}",
        f"{early.files} / {last.files}",
        f"{early.written / 1024:.0f} / {last.written / 1024:.0f}",
        f"{lines:,} rows, {table.stat().st_size / 1024:.0f} KiB",
        f"{last.pictures}",
        f"{last.seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


HEADER = [
    "module",
    "steps",
    f"MiB after {FROM} steps",
    "MiB at the end",
    "MiB / 1,000 steps",
    "tensors",
    "Python objects",
    "open files",
    "files",
    "KiB in them",
    "metrics.csv",
    "pictures",
    "s",
]


def measure(module: str, steps: int, out: str | None) -> tuple[str, list[str]]:
    """Run one module in this process, and give its line and its faults."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "tmp")
        temporary.mkdir()
        tempfile.tempdir = str(temporary)
        root = Path(folder, "run")
        samples, _ = run(module, steps, root)
        tempfile.tempdir = None
        if out is not None:
            Path(out).mkdir(parents=True, exist_ok=True)
            content = json.dumps([vars(sample) for sample in samples], indent=1)
            Path(out, f"{module}.json").write_text(content, encoding="utf-8")
        faults = [
            f"{module}: {name} grows by {found:,.0f} in 1,000 steps, and may by {LIMITS[name]:,.0f}"
            for name, found in growing(samples).items()
        ]
        return row(module, samples, root), faults


def main() -> None:
    """Measure, print a Markdown table, and say what grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modules", nargs="+", choices=list(MODULES), default=list(MODULES))
    parser.add_argument("--steps", type=int, default=2000, help=f"a multiple of {STEPS_PER_EPOCH}, over {FROM}")
    parser.add_argument("--out", default=None, help="a folder for all samples, as JSON")
    options = parser.parse_args()
    if options.steps <= FROM or options.steps % STEPS_PER_EPOCH:
        parser.error(f"--steps must be a multiple of {STEPS_PER_EPOCH} and over {FROM}, got {options.steps}.")
    print(
        f"torch {torch.__version__}, one thread, {BATCH_SIZE} digits to a batch; "
        f"a / b: after {FROM} steps / at the end\n"
    )
    print("| " + " | ".join(HEADER) + " |\n" + "|---" * len(HEADER) + "|", flush=True)
    faults: list[str] = []
    # a process for each, so that none inherits the memory of another
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for line, found in pool.imap(partial(_measure, options.steps, options.out), options.modules):
            print(line, flush=True)
            faults += found
    if faults:
        print("\n" + "\n".join(faults))
        sys.exit(1)


def _measure(steps: int, out: str | None, module: str) -> tuple[str, list[str]]:
    return measure(module, steps, out)


if __name__ == "__main__":
    main()
