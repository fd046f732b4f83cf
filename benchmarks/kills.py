"""Kill training at random moments, continue it, and compare the weights bit by bit with those of a run left alone.

Each of the three modules is trained on the embedded digits in a process of its own: an ``AdversarialClassifier`` (PGD
with random start, dropout, WeightAverage), a ``RegularizedClassifier`` (crops and flips, noise on images, dropout) and
a ``GAN`` (two steps of the discriminator for one of the generator, lazy R1, gradients added up over two batches). A
trial starts one, sends it SIGKILL or SIGTERM after a random part of the time that a whole run takes, or SIGKILL as soon
as it begins to write its checkpoint, and continues it in new processes, which may be killed too, until it ends.

Processes are forked from one that has imported everything, so that a trial takes seconds.

    python -m benchmarks.kills                       # 50 trials
    python -m benchmarks.kills --trials 12 --seed 3
"""

import argparse
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from lightning_advreg import GAN, AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.augmentations import InputNoise
from lightning_advreg.callbacks import BatchAugmentation, ExactResume, WeightAverage
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.modules import LinearOneCycle
from lightning_advreg.networks import MLPDiscriminator, MLPGenerator, MNISTConvNet
from lightning_advreg.penalties import R1

EPOCHS, SAVE_EVERY, PATIENCE = 3, 3, 300.0
SHAPE = (1, 8, 8)
WAYS = ("SIGKILL", "SIGKILL while it saves", "SIGKILL", "SIGTERM")


def network() -> MNISTConvNet:
    """Give a small network with everything that draws or carries."""
    return MNISTConvNet(image_size=8, width=4, hidden=8, norm="batch", dropout=0.3)


def adversarial() -> tuple[LightningModule, list[Callback]]:
    """Give adversarial training with a random start in each step."""
    attack = PGD(eps=0.2, step_size=0.1, steps=2)
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    module = AdversarialClassifier(network(), attack, eps_warmup_epochs=2, optimizer=sgd, lr_scheduler=LinearOneCycle)
    return module, [WeightAverage(0.9)]


def regularized() -> tuple[LightningModule, list[Callback]]:
    """Give training under noise."""
    return RegularizedClassifier(network(), label_smoothing=0.1), [BatchAugmentation([InputNoise(std=0.1)])]


def gan() -> tuple[LightningModule, list[Callback]]:
    """Give a GAN whose steps take several batches."""
    generator = MLPGenerator(latent_dim=4, image_shape=SHAPE, hidden=(8,))
    discriminator = MLPDiscriminator(image_shape=SHAPE, hidden=(8,), dropout=0.3)
    critic = [R1(1.0, every=3)]
    module = GAN(
        generator, discriminator, critic_penalties=critic, n_critic=2, accumulate_grad_batches=2, instance_noise=0.2
    )
    return module, []


KINDS: dict[str, Callable[[], tuple[LightningModule, list[Callback]]]] = {
    "AdversarialClassifier": adversarial,
    "RegularizedClassifier": regularized,
    "GAN": gan,
}


def train(kind: str, folder: Path, loader: str) -> None:
    """Train from the start or from where the folder says, and leave the last state in ``end.pt``."""
    path = folder / "resume.ckpt"
    # a run that goes on begins with other random numbers than the first one did
    seed_everything(1 if path.exists() else 0, verbose=False)
    module, callbacks = KINDS[kind]()
    resume = ExactResume(every_n_train_steps=SAVE_EVERY, every_n_minutes=None)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        default_root_dir=folder,
        callbacks=[*callbacks, resume],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=0.5,
    )
    data = DigitsDataModule(batch_size=32, train_size=1088, val_size=64, augment=True, loader=loader)
    trainer.fit(module, datamodule=data, ckpt_path=path if path.exists() else None, weights_only=True)
    averages = [each.average.weights for each in callbacks if isinstance(each, WeightAverage)]
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
    torch.save({"weights": module.state_dict(), "averages": averages, "optimizers": optimizers}, folder / "end.pt")


def start(kind: str, folder: Path, loader: str) -> int:
    """Train in a forked process, and give its number."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        with (folder / "log.txt").open("a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        warnings.simplefilter("ignore")
        train(kind, folder, loader)
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    finally:
        # without what the parent would do at its exit
        os._exit(status)


def ended(number: int, seconds: float) -> int | None:
    """Wait for a process; give its exit status, minus the signal that killed it, or None if it goes on."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.001)


def begins_to_save(number: int, folder: Path, saves: int) -> int | None:
    """Wait until a run has begun to write its checkpoint so many times; give its status if it ended before."""
    draft, was_there = folder / "resume.ckpt.part", False
    while saves:
        is_there = draft.exists()
        saves -= is_there and not was_there
        was_there = is_there
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
    return None


def end_early(number: int, folder: Path, way: str, chance: random.Random, seconds: float) -> int:
    """Let a run go for a while, end it in some way, and give its exit status."""
    if way.endswith("saves"):
        status = begins_to_save(number, folder, chance.randrange(1, 12))
        time.sleep(chance.uniform(0, 0.003))
    else:
        status = ended(number, chance.uniform(0.1, 1.0) * seconds)
    if status is None:
        os.kill(number, signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL)
        status = ended(number, PATIENCE)
    assert status is not None, f"the run in {folder} neither ended nor was killed"
    return status


def same(first: Any, second: Any) -> bool:  # noqa: ANN401
    """Tell whether nested values are equal, tensors bit by bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def left_alone(kind: str, folder: Path, loader: str) -> float:
    """Train without a kill, and give how many seconds it took."""
    folder.mkdir(parents=True)
    begun = time.monotonic()
    status = ended(start(kind, folder, loader), PATIENCE)
    assert status == 0, (folder / "log.txt").read_text()
    return time.monotonic() - begun


def trial(kind: str, folder: Path, loader: str, way: str, *, seed: int, seconds: float) -> tuple[int, str]:
    """Kill and continue a run until it ends, after one kill or two.

    A run that ends before it can be killed is begun anew, to be killed earlier.

    Args:
        kind: The module.
        folder: The run's folder, which is made; ``whole`` beside it holds the run that was left alone.
        loader: The loader.
        way: How it is ended, the first two times.
        seed: Of the moments.
        seconds: How long a run takes.

    Returns:
        How many times it was ended before its end, and what was wrong, if anything.
    """
    folder.mkdir(parents=True)
    chance, kills, statuses = random.Random(seed), 0, []
    for kills_wanted in (True, chance.random() < 0.5, False):
        number = start(kind, folder, loader)
        status = end_early(number, folder, way, chance, seconds) if kills_wanted else ended(number, PATIENCE)
        if status == 0 and not kills:
            shutil.rmtree(folder)
            return trial(kind, folder, loader, way, seed=seed, seconds=seconds / 2)
        statuses.append(status)
        if status == 0:
            break
        kills += 1
    expected = {-signal.SIGTERM, 128 + signal.SIGTERM} if way == "SIGTERM" else {-signal.SIGKILL}
    if statuses[-1] != 0 or not set(statuses[:-1]) <= expected:
        return kills, f"exit statuses {statuses}"
    ends = [torch.load(each / "end.pt", weights_only=True) for each in (folder.parent / "whole", folder)]
    return kills, "" if same(*ends) else "other weights"


def run(trials: int, seed: int, folder: Path) -> bool:
    """Run all trials, print a table, and tell whether all were exact."""
    seconds, rows, exact = {}, {}, 0
    for index in range(trials):
        kind, loader = list(KINDS)[index % 3], ("standard", "resident")[index // 3 % 2]
        way = WAYS[index // 3 % len(WAYS)]
        home = folder / f"{kind}_{loader}"
        if home not in seconds:
            seconds[home] = left_alone(kind, home / "whole", loader)
        kills, wrong = trial(kind, home / str(index), loader, way, seed=seed + index, seconds=seconds[home])
        exact += not wrong
        done, right, killed = rows.get((kind, way), (0, 0, 0))
        rows[kind, way] = done + 1, right + (not wrong), killed + kills
        print(f"seed {seed + index}: {kind}, {loader} loader, {way}, ended {kills} times: {wrong or 'the same bits'}")
    print("\n| module | ended by | times | trials | the same bits |\n|---|---|---|---|---|")
    for (kind, way), (done, right, killed) in sorted(rows.items()):
        print(f"| `{kind}` | {way} | {killed} | {done} | {right} of {done} |")
    print(f"\n{exact} of {trials} end with the bits of the run that was left alone (weights, averages, optimizers).")
    return exact == trials


def main() -> None:
    """Read the command line, and exit with 1 unless all trials were exact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50, help="how many runs to kill and continue")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; each has the next one")
    arguments = parser.parse_args()
    # a forked process has none of the threads that its parent had started
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if run(arguments.trials, arguments.seed, Path(folder)) else 1)


if __name__ == "__main__":
    main()
