"""A run that is killed goes on as if it had not been."""

import shlex
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_advreg.callbacks import resume_file
from lightning_advreg.callbacks.course import Course
from lightning_advreg.callbacks.loop_moments import (
    LoopMoments,
    as_in_the_middle_of_a_batch_,
    between_steps,
    run_ends,
)
from lightning_advreg.callbacks.noticed_signals import NoticedSignals
from lightning_advreg.callbacks.schedule import check_positive
from lightning_advreg.files.aside import set_aside
from lightning_advreg.values import Number, to_float

_DUE = 1
"""What the processes tell each other where no signal came but a save is due; no signal that is listened to has it."""


class ExactResume(Callback):
    """Keep all that a killed run needs to end with the weights, bit for bit, that it would have had.

    Training saves ``resume.ckpt`` now and then, at its end, and when it is asked to stop; ``trainer.fit(module,
    ckpt_path=".../resume.ckpt")`` continues from there, also from the middle of an epoch, on the same number of
    processes. The file is a checkpoint of Lightning, which besides holds the generators of every process (Python's,
    NumPy's, PyTorch's, and that of its CUDA device) and the place in the epoch. It is written beside itself and then
    renamed, so that it is whole at every moment, and a new run does not overwrite it but calls it ``resume_1.ckpt``.
    Where it cannot be written, a warning says so, the former file stays, and training goes on.

    Files are written between two steps: after accumulated gradients are applied, and after validation and schedulers
    that follow a batch. Loaders that tell their place, as those of this library do, begin with the next batch. Others
    fetch the batches of the epoch again that were trained on, with the generators that they had then; that is exact
    unless workers persist and draw random numbers. Batches of a loader without an end are fetched again too.

    SIGTERM and SIGUSR1, which clusters send before they take the machine away, are noted; the step is ended, the file
    saved, a sentence says how to go on, and the process ends with status 128 + signal. A handler of SIGUSR1 that is
    there already, such as the one with which Lightning queues a SLURM job again, is called between two steps instead of
    within one, and training goes on until the cluster ends it.

    Kept are weights and whatever checkpoints hold. What was logged since the epoch began is not: means over the epoch
    in which a run was killed are of its rest.

    Args:
        every_n_train_steps: Save after so many optimizer steps, at least 1, where accumulated batches count as one;
            None for no saves by steps.
        every_n_minutes: Save when so many minutes have passed, above 0; None for no saves by time.
        save_on_signal: Whether SIGTERM and SIGUSR1 are waited for.
        dirpath: The folder of the file; None for ``trainer.default_root_dir``. It must be one of this machine.

    Raises:
        ValueError: If a number is out of its range; in ``fit``, if the folder is not of this machine, or checkpoints
            are written in the background.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ExactResume(every_n_minutes=15)], logger=False)
        >>> # trainer.fit(module, data); after a kill: trainer.fit(module, data, ckpt_path="resume.ckpt")
    """

    def __init__(
        self,
        every_n_train_steps: int | None = None,
        every_n_minutes: Number | None = 10,
        *,
        save_on_signal: bool = True,
        dirpath: str | Path | None = None,
    ) -> None:
        super().__init__()
        if every_n_train_steps is not None:
            check_positive(every_n_train_steps, "every_n_train_steps")
        self.every_n_train_steps = every_n_train_steps
        self.every_n_minutes = None if every_n_minutes is None else to_float(every_n_minutes, "every_n_minutes")
        if self.every_n_minutes is not None and self.every_n_minutes <= 0:
            raise ValueError(
                f"every_n_minutes must be more than 0, got {every_n_minutes!r}; None saves by steps alone."
            )
        self.save_on_signal = save_on_signal
        self.dirpath = dirpath
        self._signals = NoticedSignals()
        self._moments: LoopMoments | None = None
        # where a save is exact: "step" between two steps of an epoch, "epoch" between two epochs
        self._place: str | None = None
        self._finished: dict[str, Any] | None = None
        self._course = Course()
        self._steps, self._saved_at, self._saved_after = 0, 0.0, 0

    def path(self, trainer: pl.Trainer) -> Path:
        """Give where the file lies.

        Raises:
            ValueError: If that is not a folder of this machine.
        """
        folder = str(trainer.default_root_dir if self.dirpath is None else self.dirpath)
        if "://" in folder:
            raise ValueError(
                f"ExactResume needs a folder of this machine, where a file takes the place of another at once, got "
                f"{folder}; give ExactResume(dirpath=...)."
            )
        return Path(folder) / resume_file.NAME

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what could not be exact."""
        self._place, self._finished, self._course = None, None, Course()
        if stage == "fit":
            self.check(trainer)
            self._signals.look_before()

    def check(self, trainer: pl.Trainer) -> None:
        """Check that a file can be written, and take the place of the former one.

        Raises:
            ValueError: If the folder is not of this machine, or checkpoints are written in the background.
        """
        self.path(trainer)
        if isinstance(trainer.strategy.checkpoint_io, AsyncCheckpointIO):
            raise ValueError(
                "ExactResume cannot tell when AsyncCheckpointIO has written its file; take that plugin off the Trainer."
            )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take over what was kept."""
        if trainer.state.fn == "fit":
            self._course.load(trainer, checkpoint.get(resume_file.KEY))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the generators of all processes and the place in the epoch, to any checkpoint."""
        checkpoint[resume_file.KEY] = {**self._course.kept(trainer, self._place), "finished": self._finished}
        if self._place == "step":
            as_in_the_middle_of_a_batch_(checkpoint["loops"]["fit_loop"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Be called between steps and between epochs."""
        self._moments = moments = LoopMoments(trainer)
        run, epoch, course = trainer.fit_loop, trainer.fit_loop.epoch_loop, self._course
        moments.before(run, "run", lambda: self._before_run(trainer))
        moments.after(run, "on_run_start", lambda: self._run_started(trainer))
        moments.before(epoch, "on_run_start", lambda fetcher: course.epoch_begins(trainer, fetcher))
        moments.after(epoch, "on_run_start", lambda fetcher: course.epoch_has_begun(trainer))
        passed = "increment_progress_to_evaluation_end"
        moments.after(epoch.val_loop, passed, lambda: course.validation_passed_over(trainer))
        moments.after(epoch, "on_advance_end", lambda fetcher: self._batch_done(trainer, pl_module))
        moments.before(run, "on_advance_end", lambda: course.epoch_ends(trainer))
        moments.after(run, "on_advance_end", lambda: self._epoch_done(trainer))
        moments.after(run, "on_run_end", lambda: self._run_done(trainer))
        self._steps, self._saved_at, self._saved_after = 0, time.monotonic(), 0

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave loops and signals as they were."""
        self._signals.stop()
        if self._moments is not None:
            self._moments.take_off()
            self._moments = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Do so after an error too, which no teardown follows."""
        self.teardown(trainer, pl_module, "")

    def _before_run(self, trainer: pl.Trainer) -> None:
        self._course.run_begins(trainer)
        if self._course.finished:
            rank_zero_info(
                f"This run is finished, after epoch {trainer.current_epoch} and step {trainer.global_step}; raise "
                "max_epochs or max_steps to train on."
            )
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            resume_file.discard_draft(self.path(trainer))
            if not trainer.ckpt_path:
                self._set_aside(self.path(trainer))

    def _run_started(self, trainer: pl.Trainer) -> None:
        if self.save_on_signal:
            self._signals.listen()
        self._course.run_has_begun(trainer)

    def _batch_done(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if between_steps(trainer, pl_module):
            self._steps += 1
            self._between(trainer, "step")

    def _epoch_done(self, trainer: pl.Trainer) -> None:
        self._steps += 1
        # a run that is about to end does so before it listens: a save here would lack what comes at the end
        if not run_ends(trainer):
            self._between(trainer, "epoch")

    def _run_done(self, trainer: pl.Trainer) -> None:
        # what comes now ends by itself
        self._signals.stop()
        self._finished = {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps}
        self._save(trainer, "epoch")

    def _between(self, trainer: pl.Trainer, place: str) -> None:
        asked = self._asked(trainer)
        by_steps = self.every_n_train_steps is not None and self._steps - self._saved_after >= self.every_n_train_steps
        if asked or by_steps:
            saved = self._save(trainer, place)
            if asked > _DUE:
                self._answer(trainer, asked, saved=saved)
        self._place = None

    def _asked(self, trainer: pl.Trainer) -> int:
        """Give the number of a signal that any process has received, or whether time is up for a save, or 0."""
        minutes = self.every_n_minutes
        due = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        asked = self._signals.received or (_DUE if due else 0)
        if trainer.world_size > 1 and (self.save_on_signal or minutes is not None):
            # all have to save, and to stop, after the same step
            code = torch.tensor(asked, device=trainer.strategy.root_device)
            asked = int(trainer.strategy.reduce(code, reduce_op="max"))
        return asked

    def _answer(self, trainer: pl.Trainer, number: int, *, saved: bool) -> None:
        name = signal.Signals(number).name
        postponed = self._signals.postponed(number)
        self._signals.received = None
        if postponed is not None:
            postponed()
        if number != signal.SIGTERM and postponed is not None:
            return
        path = self.path(trainer)
        # by all processes: they agree on the folder
        command = _command(trainer, path)
        kept = f"Continue with: {command}" if saved or path.exists() else "Nothing could be saved."
        rank_zero_info(f"Stopped by {name} in epoch {trainer.current_epoch}, after step {trainer.global_step}. {kept}")
        # whoever starts processes may end the others when one has ended, and one is still writing
        trainer.strategy.barrier("ExactResume")
        # status as of a process that the signal has killed: who waits for this one must not take it for done
        raise SIGTERMException(128 + number)

    def _save(self, trainer: pl.Trainer, place: str) -> bool:
        self._place = place
        self._saved_at, self._saved_after = time.monotonic(), self._steps
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        path = self.path(trainer)
        draft = resume_file.draft_of(path)
        try:
            trainer.save_checkpoint(draft, weights_only=False)
        except OSError as error:
            # the others wait for this process there
            trainer.strategy.barrier("Trainer.save_checkpoint")
            return self._failed(path, error)
        if trainer.is_global_zero and not draft.exists():
            # SafeCheckpointIO has said why
            return False
        try:
            if trainer.is_global_zero:
                resume_file.put_in_place(path)
        except OSError as error:
            return self._failed(path, error)
        return True

    def _failed(self, path: Path, error: OSError) -> bool:
        resume_file.discard_draft(path)
        kept = "; the file of an earlier step stays" if path.exists() else ""
        rank_zero_warn(
            f"ExactResume could not write {path} ({error.strerror or error}), and training goes on{kept}. Free some "
            "space, or give another folder with ExactResume(dirpath=...)."
        )
        return False

    def _set_aside(self, path: Path) -> None:
        try:
            former = set_aside(path)
        except OSError as error:
            rank_zero_warn(f"ExactResume could not rename {path} of an earlier run ({error.strerror or error}).")
            return
        if former is not None:
            rank_zero_info(f"{path.name} of an earlier run is kept as {former}; ckpt_path would continue from it.")


def _command(trainer: pl.Trainer, path: Path) -> str:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    parser = next((each.parser for each in callbacks if isinstance(each, SaveConfigCallback)), None)
    config = Path(trainer.log_dir or trainer.default_root_dir) / "config.yaml"
    if parser is None or not config.is_file():
        return f"trainer.fit(..., ckpt_path={str(path)!r})"
    program = str(parser.prog).split()[0]
    return f"{program} fit --config {shlex.quote(str(config))} --ckpt_path {shlex.quote(str(path))}"
