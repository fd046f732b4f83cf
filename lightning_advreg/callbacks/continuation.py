"""A run that breaks off says how to continue it."""

import shlex
import signal
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_advreg.callbacks.exact_resume import ExactResume
from lightning_advreg.files import write_text

FILE = "how_to_continue.txt"
"""The name of the file in the run folder."""

_MEMORY = (
    "The device ran out of memory: halve data.init_args.batch_size and double trainer.accumulate_grad_batches, which "
    "gives steps on as many images, or set trainer.precision to bf16-mixed."
)


class Continuation(Callback):
    """Write ``how_to_continue.txt`` into the run folder when training breaks off, by Ctrl-C, a signal or an error.

    The file says what happened, which checkpoint is the last one and at which command training goes on from there. The
    same is said on the screen. A run that starts removes the file of an earlier one. The command line adds this
    callback to every ``fit``.

    Args:
        command: The arguments of ``lightning-advreg`` of this run.

    Example:
        >>> Continuation(["fit", "--config", "quickstart"]).next_command(Path("runs/quickstart/checkpoints/last.ckpt"))
        'lightning-advreg fit --config quickstart --ckpt_path runs/quickstart/checkpoints/last.ckpt'
    """

    def __init__(self, command: Sequence[str] = ()) -> None:
        super().__init__()
        self.command = tuple(command)
        self._folder: Path | None = None

    def next_command(self, checkpoint: Path | None) -> str:
        """Give the command that goes on from a checkpoint; from the start where there is none."""
        if any(argument.partition("=")[0] == "--resume" for argument in self.command):
            # it finds the newest one itself
            return shlex.join(["lightning-advreg", *self.command])
        kept: list[str] = []
        arguments = iter(self.command)
        for argument in arguments:
            if argument == "--ckpt_path":
                next(arguments, None)
            elif not argument.startswith("--ckpt_path="):
                kept.append(argument)
        return shlex.join(
            ["lightning-advreg", *kept, *(() if checkpoint is None else ("--ckpt_path", str(checkpoint)))]
        )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove what an earlier run of this folder left."""
        # log_dir asks the main process, so every process must read it, and none of them after an error
        folder = trainer.log_dir
        unwanted = trainer.fast_dev_run or not trainer.is_global_zero  # type: ignore[attr-defined]
        self._folder = None if folder is None or unwanted else Path(folder)
        if self._folder is not None:
            (self._folder / FILE).unlink(missing_ok=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write the file, and say the same."""
        if self._folder is None:
            return
        text = self._text(trainer, exception)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(self._folder / FILE, text)
        except OSError:
            # a full disk may be what ended the run; it is said all the same
            pass
        rank_zero_info(text.rstrip())

    def _text(self, trainer: pl.Trainer, exception: BaseException) -> str:
        reached = f"in epoch {trainer.current_epoch}, at step {trainer.global_step}"
        lines = [f"Training was ended {reached}, by {_what(exception)}"]
        if isinstance(exception, torch.OutOfMemoryError):
            lines.append(_MEMORY)
        checkpoint = newest_checkpoint(trainer)
        if checkpoint is None:
            lines.append("There is no checkpoint yet. To begin anew:")
        else:
            lines.append(f"The last checkpoint is {checkpoint}. To continue from it:")
        return "\n".join([*lines, f"  {self.next_command(checkpoint)}"]) + "\n"


def _what(exception: BaseException) -> str:
    if isinstance(exception, KeyboardInterrupt):
        return "Ctrl-C"
    if isinstance(exception, SIGTERMException):
        # ExactResume gives the status of a process that the signal has killed; Lightning gives none
        number = exception.code - 128 if isinstance(exception.code, int) else signal.SIGTERM
        return signal.Signals(number).name
    return f"{type(exception).__name__}: {next(iter(str(exception).splitlines()), '')}".rstrip(": ")


def newest_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Find the newest checkpoint that a Trainer's ``ModelCheckpoint`` callbacks and its ``ExactResume`` have written.

    Args:
        trainer: The Trainer.

    Returns:
        The file; None where there is none, or its folder is not on this machine.
    """
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    folders = {Path(callback.dirpath) for callback in callbacks if callback.dirpath}
    found = [path for folder in folders if folder.is_dir() for path in folder.glob("*.ckpt")]
    all_callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    exact = (callback.path(trainer) for callback in all_callbacks if isinstance(callback, ExactResume))
    found += [path for path in exact if path.is_file()]
    return max(found, key=lambda path: (path.stat().st_mtime, path.name == "last.ckpt"), default=None)
