"""Tamper with checkpoints and configurations, and see whether anything runs, hangs, or fails without a reason.

``python -m benchmarks.fuzz --cases 1000`` mutates a checkpoint and a configuration so often each (bytes, pickle
instructions, values, references, classes of a module that writes a file when it is imported), loads each in this
process, and prints a table. The exit status is 1 if code ran, a case took too long, or an error named no reason.
"""

import argparse
import contextlib
import io
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything

from benchmarks.mutations import mutated_checkpoint, mutated_config
from lightning_advreg import RegularizedClassifier
from lightning_advreg.cli import RunFolderCLI, command_line
from lightning_advreg.config_files import configs_folder
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.files import RefusedFile, SafeCheckpointIO
from lightning_advreg.files.configs import check_config
from lightning_advreg.files.packages import restrict_imports
from lightning_advreg.networks import MNISTConvNet

LIMIT = 60
MODULE = "advreg_stranger"
ALLOWED = ("lightning_advreg", "torch", "torchvision", "lightning", "torchmetrics")


class Reader(RunFolderCLI):
    """Parses the arguments of a command, and stops there."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None: ...


class TookTooLong(BaseException):
    """A case did not end in time."""


def main() -> int:
    """Run all cases and print what became of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="mutations of each kind of file (1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first; the others follow (0)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    restrict_imports(ALLOWED)
    torch.set_num_threads(1)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        canary = folder / "canary"
        (folder / f"{MODULE}.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Net: ...\ndef run(): ...\n")
        sys.path.insert(0, name)
        os.chdir(folder)
        for kind, cases in (("checkpoint", checkpoints(folder, canary)), ("configuration", configurations(folder))):
            outcomes, slowest = run(cases, options.seed, options.cases, canary)
            failed |= show(kind, options.cases, outcomes, slowest)
    return int(failed)


def checkpoints(folder: Path, canary: Path) -> Callable[[int], tuple[str, Callable[[], object]]]:
    """Give what makes a mutated checkpoint of a seed, and loads it."""
    seed_everything(0, verbose=False)
    model = RegularizedClassifier(MNISTConvNet(image_size=8, width=4, hidden=8))
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_steps=1, limit_val_batches=0, enable_checkpointing=False, **quiet)
    trainer.fit(model, datamodule=DigitsDataModule(batch_size=16))
    path = folder / "last.ckpt"
    trainer.save_checkpoint(path)
    content = path.read_bytes()
    plugin = SafeCheckpointIO()

    def case(seed: int) -> tuple[str, Callable[[], object]]:
        changed, kind = mutated_checkpoint(content, seed, canary)
        path.write_bytes(changed)

        def load() -> None:
            plugin.load_checkpoint(path)
            RegularizedClassifier.load_from_checkpoint(path)

        return kind, load

    return case


def configurations(folder: Path) -> Callable[[int], tuple[str, Callable[[], object]]]:
    """Give what makes a mutated configuration of a seed, and parses it."""
    shipped = configs_folder() / "quickstart.yaml"
    config = yaml.safe_load(shipped.read_text())
    # building a parser takes longer than all else; it is the same for every file
    parser = command_line(Reader, ["fit", "--config", str(shipped)], exit_on_error=False).parser
    path = folder / "config.yaml"

    def case(seed: int) -> tuple[str, Callable[[], object]]:
        text, kind = mutated_config(config, seed, MODULE)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")

        def parse() -> None:
            check_config(path)
            parser.parse_args(["fit", "--config", str(path)])

        return kind, parse

    return case


def run(
    cases: Callable[[int], tuple[str, Callable[[], object]]], first: int, count: int, canary: Path
) -> tuple[dict[str, Counter[str]], float]:
    """Run cases, and count what became of them by kind of mutation.

    Args:
        cases: Gives the kind and the reading of a seed.
        first: The first seed.
        count: How many follow.
        canary: The file that exists once anything has run.

    Returns:
        The counts, and the seconds of the slowest case.
    """
    outcomes: dict[str, Counter[str]] = {}
    slowest = 0.0
    for seed in range(first, first + count):
        kind, read = cases(seed)
        begin = time.monotonic()
        outcome = what_becomes(read, seed)
        slowest = max(slowest, time.monotonic() - begin)
        if canary.exists():
            sys.stderr.write(f"seed {seed}, {kind}: code ran\n")
            outcome = "code ran"
            canary.unlink()
        outcomes.setdefault(kind, Counter())[outcome] += 1
    return outcomes, slowest


def what_becomes(read: Callable[[], object], seed: int) -> str:
    """Read a file, and say what became of it: read, refused, hung, or failed without a reason."""
    try:
        with limited(), contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            read()
    except TookTooLong:
        sys.stderr.write(f"seed {seed}: no end after {LIMIT} s\n")
        return "hung"
    except (RefusedFile, FileNotFoundError) as error:
        return "refused" if str(error).strip() and "\n" not in str(error) else "no reason"
    except argparse.ArgumentError as error:
        # what the program prints behind `error:`
        return "refused" if str(error).strip() else "no reason"
    except SystemExit as error:
        return "refused" if error.code not in (0, None) else "read"
    except Exception as error:
        sys.stderr.write(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}\n")
        return "no reason"
    return "read"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Interrupt what takes longer than the limit."""

    def stop(*_: object) -> None:
        raise TookTooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)


def show(kind: str, cases: int, outcomes: dict[str, Counter[str]], slowest: float) -> bool:
    """Print a table; true if anything in it must not be."""
    columns = ("read", "refused", "code ran", "hung", "no reason")
    print(f"{cases} mutations of a {kind}; the slowest took {slowest:.2f} s\n")
    print(f"| what was done | {' | '.join(columns)} |\n|:--|{'--:|' * len(columns)}")
    for name, counts in sorted(outcomes.items()):
        print(f"| {name} | {' | '.join(str(counts[column]) for column in columns)} |")
    total = sum(outcomes.values(), Counter())
    print(f"| all | {' | '.join(str(total[column]) for column in columns)} |\n", flush=True)
    return any(total[column] for column in columns[2:])


if __name__ == "__main__":
    sys.exit(main())
