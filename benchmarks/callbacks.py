"""What all callbacks together cost: share of a ResNet-18 PGD-10 epoch, and what they add to a checkpoint.

Two trainings, one with the callbacks of ``WATCHING`` and one without any, take turns batch by batch in one process, in
two threads of which one waits, so that a busy machine slows them alike. What a callback takes by itself is counted
around its hooks. What an epoch ends with, validation under attack and the looks of the monitor, is run twice and set
against an epoch of 50,000 images.

    python -m benchmarks.callbacks --cpu-time              # some minutes on one core
    python -m benchmarks.callbacks --cpu-time --network small --steps 40

The exit status is 1 where all together take over 3 % of the epoch, or a checkpoint holds over 1 MB besides weights,
copies of weights that a callback was asked for, and the state of the optimizer.

Callbacks that change what is trained on (``BatchAugmentation``, ``AdversarialTraining``, ``ActivationNoise``, ablations
of layers) are not among them: what they compute is training.
"""

import argparse
import io
import logging
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import Profiler
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.callbacks import (
    AdaptiveGradientClipping,
    AdversarialExamples,
    Continuation,
    ConvergenceMonitor,
    ExactResume,
    FiniteTraining,
    RobustAccuracy,
    WeightAverage,
)
from lightning_advreg.networks import MNISTConvNet, ResNet18

EPS = 8 / 255
EPOCH = 50_000
"""Images of the epoch that the share is one of."""
BAR = 0.03
"""The share of an epoch that all callbacks together may take."""
STATE = 10**6
"""The bytes that a checkpoint may hold beside weights and optimizer."""
EPOCHS = 2
"""Short epochs of a training: after the second validation the monitor knows what checkpoints need not hold."""
MONITORED = 256
"""Images that the monitor keeps of either kind, its default."""
IN_A_STEP = ("batch", "backward", "optimizer_step", "zero_grad")
_ALWAYS = 10**6
COPIES = ("WeightAverage", "snapshot")

WATCHING: dict[str, Callable[[argparse.Namespace], Callback]] = {
    "FiniteTraining": lambda options: FiniteTraining(),
    "Continuation": lambda options: Continuation(["fit"]),
    "ExactResume": lambda options: ExactResume(),
    "WeightAverage": lambda options: WeightAverage(),
    "AdaptiveGradientClipping": lambda options: AdaptiveGradientClipping(),
    "ConvergenceMonitor": lambda options: ConvergenceMonitor(max_cost=options.max_cost),
    "RobustAccuracy": lambda options: RobustAccuracy(PGD(eps=EPS, steps=10, seed=0), max_samples=options.images),
    "AdversarialExamples": lambda options: AdversarialExamples(PGD(eps=EPS, steps=10, seed=0)),
}
"""The callbacks, given the options; one more is one more line."""


class Costs(Profiler):
    """Counts the time that each callback takes, in the hooks of a step and in others.

    Args:
        clock: Gives the time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clock = clock
        self.steps: dict[str, list[float]] = defaultdict(list)
        self.others: dict[str, float] = defaultdict(float)
        self._began: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        """Note when a hook began."""
        if action_name.startswith("[Callback]"):
            self._began[action_name] = self.clock()

    def stop(self, action_name: str) -> None:
        """Add up."""
        if action_name not in self._began:
            return
        seconds = self.clock() - self._began.pop(action_name)
        owner, _, hook = action_name.removeprefix("[Callback]").rpartition(".")
        name = owner.partition("{")[0]
        if "validation" not in hook and any(part in hook for part in IN_A_STEP):
            self.steps[name].append(seconds)
        else:
            self.others[name] += seconds


class Turns(Callback):
    """Lets two trainings go on in turns, and times every batch of the one whose turn it is.

    Args:
        mine: What is awaited before a batch.
        other: What lets the other training go on.
        clock: Gives the time.
    """

    def __init__(self, mine: threading.Semaphore, other: threading.Semaphore, clock: Callable[[], float]) -> None:
        super().__init__()
        self.mine, self.other, self.clock = mine, other, clock
        self.seconds: list[float] = []
        self._began = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for one's turn."""
        self.mine.acquire()

    def on_train_batch_start(self, *args: Any) -> None:  # noqa: ANN401
        """Give the turn away, and wait for it."""
        self._end()
        self.other.release()
        self.mine.acquire()
        self._began = self.clock()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the last batch; what follows is not timed here."""
        self._end()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the last batch, where there is no validation."""
        self._end()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the turn away for good."""
        self.other.release(_ALWAYS)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Do so after an error too."""
        self.other.release(_ALWAYS)

    def _end(self) -> None:
        if self._began:
            self.seconds.append(self.clock() - self._began)
        self._began = 0.0


def trained(
    options: argparse.Namespace, turns: Turns, callbacks: Sequence[Callback], profiler: Profiler | None, folder: Path
) -> Trainer:
    """Train a classifier for two short epochs, in turns with another."""
    small = options.network == "small"
    shape = (1, 28, 28) if small else (3, 32, 32)
    generator = torch.Generator().manual_seed(0)

    def loader(count: int) -> DataLoader[Any]:
        # bytes, as images of files are
        images = torch.randint(256, (count, *shape), generator=generator) / 255
        labels = torch.randint(10, (count,), generator=generator)
        return DataLoader(TensorDataset(images, labels), batch_size=options.batch_size)

    model = AdversarialClassifier(
        MNISTConvNet() if small else ResNet18(),
        attack=PGD(eps=EPS, step_size=EPS / 4, steps=10),
        optimizer=partial(SGD, lr=0.01, momentum=0.9),
    )
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=[turns, *callbacks],
        profiler=profiler,
        logger=CSVLogger(str(folder), name="", version=""),
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=50,
    )
    val = loader(max(options.images, MONITORED)) if callbacks else None
    trainer.fit(model, loader(options.steps // EPOCHS * options.batch_size), val)
    return trainer


def sizes(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """Give the bytes of the parts of a checkpoint, those of each callback apart."""
    found: dict[str, int] = {}
    for name, part in checkpoint.items():
        if name != "callbacks":
            found[name] = stored(part)
            continue
        for key, state in part.items():
            kept = dict(state)
            owner = key.partition("{")[0]
            repairs = kept.get("repairs", {})
            if owner in COPIES or repairs.get("snapshot") is not None:
                found[f"{owner}, copies of weights"] = stored(state if owner in COPIES else kept.pop("repairs"))
            if owner not in COPIES:
                found[owner] = stored(kept)
    return found


def beyond(parts: Mapping[str, int]) -> int:
    """Give the bytes that are neither weights, nor copies of weights, nor the optimizer's."""
    weights = ("state_dict", "optimizer_states")
    return sum(size for name, size in parts.items() if name not in weights and "copies of weights" not in name)


def stored(value: object) -> int:
    """Give the bytes that a value takes in a file, without those of an empty one."""
    lengths = []
    for content in (value, None):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        lengths.append(buffer.tell())
    return lengths[0] - lengths[1]


def main() -> None:
    """Measure, print two Markdown tables, and say what is over its bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["resnet18", "small"], default="resnet18")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12, help="of each training, even; the first two are not counted")
    parser.add_argument("--images", type=int, default=256, help="how many RobustAccuracy attacks")
    parser.add_argument(
        "--max-cost", type=float, default=0.05, help="that of the monitor; 1 for 512 images in each look"
    )
    parser.add_argument("--cpu-time", action="store_true", help="count processor time, in one thread")
    options = parser.parse_args()
    if options.steps % EPOCHS or options.steps < 2 * EPOCHS:
        parser.error(f"--steps must be even and at least {2 * EPOCHS}, got {options.steps}.")
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    clock = time.process_time if options.cpu_time else time.perf_counter
    costs = Costs(clock)
    watching = [build(options) for build in WATCHING.values()]
    with_them, without = threading.Semaphore(0), threading.Semaphore(0)
    plain, watched = Turns(without, with_them, clock), Turns(with_them, without, clock)
    with tempfile.TemporaryDirectory() as folder:
        other = threading.Thread(target=trained, args=(options, plain, [], None, Path(folder, "plain")))
        other.start()
        with_them.release()
        trainer = trained(options, watched, watching, costs, Path(folder, "watched"))
        other.join()
        path = Path(folder, "checkpoint.ckpt")
        trainer.save_checkpoint(path)
        parts = sizes(torch.load(path, weights_only=True))
    looked_at = next(one.cost.images for one in watching if isinstance(one, ConvergenceMonitor))
    step = statistics.median(plain.seconds[2:])
    epoch = step * EPOCH / options.batch_size
    kind = "processor time" if options.cpu_time else "time"
    print(
        f"torch {torch.__version__}, CPU, one thread, {kind}, {options.network}, PGD-10, batch {options.batch_size}, "
        f"{1000 * step:,.0f} ms a step; an epoch of {EPOCH:,} images\n\nRobustAccuracy attacks "
        f"{options.images} images after each epoch, PGD-10. ConvergenceMonitor looked at {looked_at} images of either "
        f"kind, and its time after an epoch is multiplied to that of {MONITORED}.\n"
    )
    print("| callback | ms a step | of the step | s at the end of an epoch | of the epoch |\n|---|---|---|---|---|")
    share = 0.0
    for name in WATCHING:
        each = sum(costs.steps[name][-_late(costs.steps[name], options.steps) :]) / (options.steps - 2)
        once = costs.others[name] / EPOCHS
        if name == "ConvergenceMonitor":
            once *= MONITORED / looked_at
        whole = each / step + once / epoch
        share += whole
        print(f"| {name} | {1000 * each:.2f} | {100 * each / step:.3f} % | {once:.2f} | {100 * whole:.2f} % |")
    pairs = zip(watched.seconds[2:], plain.seconds[2:], strict=True)
    ratios = sorted(mine / others for mine, others in pairs)
    print(
        f"\nAll of them: {100 * share:.2f} % of the epoch. In turns, a step with them took "
        f"{statistics.median(ratios):.4f} of one without (median of {len(ratios)}, {ratios[0]:.4f} to "
        f"{ratios[-1]:.4f}).\n"
    )
    print("| part of a checkpoint | KB |\n|---|---|")
    for name, size in sorted(parts.items(), key=lambda part: -part[1]):
        print(f"| {name} | {size / 1000:,.1f} |")
    print(f"\nBeyond weights, their copies and the optimizer: {beyond(parts) / 1000:,.1f} KB.")
    if share > BAR or beyond(parts) > STATE:
        print(f"\nOver the bar of {100 * BAR:g} % of the epoch or {STATE / 1000:,.0f} KB.")
        sys.exit(1)


def _late(calls: Sequence[float], steps: int) -> int:
    """Give how many of a callback's calls belong to all but the first two steps."""
    return len(calls) * (steps - 2) // steps


if __name__ == "__main__":
    main()
