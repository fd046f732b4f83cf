"""Weights & Biases, for runs that are stopped and continued, with a network or without."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from lightning_advreg.loggers.portable import relative_path, without_paths
from lightning_advreg.loggers.wandb_connection import reason_to_stay_offline
from lightning_advreg.loggers.wandb_note import FILE, WandbNote, read_note, write_note

Resume = Literal["never", "allow", "must"]


class ResumableWandbLogger(WandbLogger):
    """Lightning's ``WandbLogger``, with four things decided for a run that may be stopped, moved and continued.

    - **The same run again.** The run's id lies in the run folder (``wandb_run.json``). With ``resume`` it is continued
      from there; the command line resumes with ``--ckpt_path``, also for ``test``, whose results then stand beside the
      training, at the step of the checkpoint.
    - **Offline where it must be.** With ``offline=None`` a run is offline where there is no key or no network, which is
      found out within a second and said in one line. ``WANDB_MODE`` beats it. Nothing is left in the environment.
    - **Checkpoints only where they can go.** ``log_model`` holds for runs that are online; offline it is no error, and
      the checkpoints stay in the run folder.
    - **No paths.** Absolute paths in what is sent as configuration are made relative (:func:`without_paths`).

    The axis ``trainer/global_step`` counts batches, also for a GAN, whose ``trainer.global_step`` does not.

    Args:
        name: What the run is called on its page; None for the name of its folder on the command line, and for one that
            W&B makes up in Python.
        save_dir: The folder that W&B writes into, and that of the id in Python; None for the run folder on the command
            line, and for the working folder in Python.
        project: The project.
        entity: The user or team; None for the default one.
        group: What the run is listed under.
        tags: Words to find it by.
        notes: A sentence on it.
        offline: Whether to write the run to files alone, for ``wandb sync``; None decides.
        resume: Whether to continue the run whose id lies in the folder: ``never`` begins another one, ``allow``
            continues it if there is one, ``must`` fails if there is none. None for ``never``, or for what the command
            line finds in ``--ckpt_path``.
        id: The id of the run; None for that in the folder, or for a new one. ``WANDB_RUN_ID`` beats it.
        log_model: Send the best checkpoints at the end of training as artifacts; ``all`` for all, at once.
        kwargs: Further arguments of ``WandbLogger`` and of ``wandb.init``.

    Raises:
        ModuleNotFoundError: If W&B is not installed.
        ValueError: If ``resume`` is another word, or, when the run begins, is ``must`` and there is nothing to resume.

    Example:
        >>> logger = ResumableWandbLogger(save_dir="runs/mine", project="robust", resume="allow", log_model=True)
        >>> logger.name, logger.save_dir, logger.version  # nothing is begun before training
        ('robust', 'runs/mine', None)
    """

    def __init__(
        self,
        name: str | None = None,
        save_dir: str | Path | None = None,
        project: str = "lightning-advreg",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        offline: bool | None = None,
        resume: Resume | None = None,
        id: str | None = None,
        log_model: Literal["all"] | bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        if resume not in (None, "never", "allow", "must"):
            raise ValueError(f"resume must be 'never', 'allow', 'must' or None, got {resume!r}.")
        of_run = {"entity": entity, "group": group, "notes": notes, "tags": None if tags is None else list(tags)}
        # what is not given is left out, for the environment and the run that is continued to say it
        settings: dict[str, Any] = {key: value for key, value in of_run.items() if value is not None}
        super().__init__(
            name=name,
            save_dir="." if save_dir is None else save_dir,
            project=project,
            id=id,
            log_model=log_model,
            **settings,
            **kwargs,
        )
        self._asked_offline, self._asked_resume = offline, resume
        self._given_save_dir = save_dir is not None
        self._folder = Path("." if save_dir is None else save_dir)
        self._resume: Resume = resume or "never"
        self._step: int | None = None
        self._own = False

    def attach(self, folder: str | os.PathLike[str], *, resume: Resume, step: int | None = None) -> None:
        """Tell where a run lies, before it begins; the command line does.

        Args:
            folder: The run folder, in which the id is kept.
            resume: What to do where the user has said nothing.
            step: Where everything that is logged stands on the axis of steps, in batches; None for the Trainer's count.
                A test of a checkpoint begins at 0 otherwise.
        """
        self._folder, self._step = Path(folder), step
        self._resume = self._asked_resume or resume
        if not self._given_save_dir:
            self._save_dir = self._wandb_init["dir"] = str(folder)
        if self._name is None:
            # such as width=8/0 of an ablation
            self._name = self._wandb_init["name"] = Path(folder).name

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:  # noqa: ANN401
        """The run of W&B, which begins when it is first asked for."""
        # a process that was spawned finds the run of the process that spawned it
        if self._experiment is None and getattr(self, "_attach_id", None) is None:
            self._begin()
        return super().experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:  # noqa: ANN401
        """Send hyper-parameters, absolute paths made relative."""
        super().log_hyperparams(without_paths(params if isinstance(params, Mapping) else vars(params)))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send metrics, or pictures and tables, at a step that counts batches."""
        super().log_metrics(metrics, step if self._step is None else self._step)

    def close(self, *, failed: bool = False) -> None:
        """End the run of W&B; what is logged afterwards continues it.

        A run that this logger has found in progress, and not begun, goes on.

        Args:
            failed: Whether the run's page is to say so.
        """
        if self._experiment is not None and self._own:
            self._id, self._resume = self._experiment.id, "allow"
            self._experiment.finish(exit_code=int(failed))
            self._experiment = None

    def _begin(self) -> None:
        import wandb

        if wandb.run is not None:
            # Lightning takes the run that is in progress, and says so
            return
        reason = self._reason_offline(wandb.setup().settings)
        note = self._noted()
        chosen = self._id or (note.id if note else None)
        if not os.environ.get("WANDB_RUN_ID"):
            self._wandb_init["id"] = chosen or secrets.token_hex(4)
        known = chosen is not None and reason is None and not (note is not None and note.offline)
        self._wandb_init["resume"] = "must" if known and self._resume == "must" else "allow"
        if note is not None and note.entity and "entity" not in self._wandb_init:
            self._wandb_init["entity"] = note.entity
        if reason is not None:
            # not by Lightning's offline=True, which sets WANDB_MODE for whatever follows in this process
            self._wandb_init["mode"] = "offline"
        # the process that writes for W&B stands in the folder in which the first run of this process was begun
        folder = Path(self._wandb_init["dir"]).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb_init["dir"] = str(folder)
        self._own = True
        run = super().experiment
        if getattr(run, "disabled", False):
            return
        offline = bool(run.offline)
        if offline:
            self._say(run, reason)
            self._log_model = False
        known_before = note is not None and note.id == run.id and not note.offline
        write_note(
            self._folder,
            WandbNote(
                id=run.id,
                project=run.project or self._project,
                entity=run.entity or (note.entity if note else None),
                offline=offline and not known_before,
            ),
        )

    def _reason_offline(self, settings: Any) -> str | None:  # noqa: ANN401
        if self._asked_offline is None or os.environ.get("WANDB_MODE"):
            return reason_to_stay_offline(settings)
        return "offline is true" if self._asked_offline else None

    def _noted(self) -> WandbNote | None:
        if self._resume == "never":
            return None
        note = read_note(self._folder)
        if note is not None and note.project in (None, self._project):
            return note
        if self._resume == "must" and not self._id and not os.environ.get("WANDB_RUN_ID"):
            raise ValueError(
                f"resume='must', but {self._folder / FILE} names no W&B run of the project {self._project}; give id=, "
                "or resume='allow', which begins one."
            )
        return None

    def _say(self, run: Any, reason: str | None) -> None:  # noqa: ANN401
        # .../offline-run-<time>-<id>/files
        folder = relative_path(Path(run.dir).parent)
        why = f", since {reason}" if reason else ""
        stay = ", without checkpoints, which stay where they are" if self._log_model else ""
        rank_zero_info(f"Weights & Biases is offline{why}: `wandb sync {folder}` sends the run later{stay}.")
