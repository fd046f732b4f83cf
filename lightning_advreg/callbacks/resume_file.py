"""The file that a run continues from: written as a whole or not at all, and found again."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_advreg.files import RefusedFile, read_checkpoint
from lightning_advreg.files.atomic import take_place

NAME = "resume.ckpt"
"""Its name in the run's folder."""

KEY = "exact_resume"
"""Where checkpoints hold what is kept: not among the states of callbacks, of which Lightning asks for each in tests."""


def draft_of(path: Path) -> Path:
    """Give the file that is written before it takes the other's place."""
    return path.with_name(f"{path.name}.part")


def put_in_place(path: Path) -> None:
    """Let a draft that is written take the place of the file, which is whole at every moment.

    Args:
        path: The file; or a folder, for checkpoints that are one.

    Raises:
        OSError: If the disk is full or cannot be written.
    """
    draft = draft_of(path)
    if draft.is_dir():
        # a folder cannot take the place of one with content
        old = path.with_name(f"{path.name}.old")
        _remove(old)
        if path.exists():
            path.rename(old)
        draft.rename(path)
        _remove(old)
        return
    take_place(draft, path)


def discard_draft(path: Path) -> None:
    """Remove what a run that was killed while it wrote has left; nothing is said where that fails."""
    _remove(draft_of(path))


def checkpoint_to_continue(folder: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """Find the checkpoint of a run that has come furthest: ``resume.ckpt`` or ``checkpoints/last.ckpt``.

    Args:
        folder: The run's folder.

    Returns:
        The file and its content, whose tensors are read when they are used; None if there is none that can be read.

    Example:
        >>> from tempfile import mkdtemp
        >>> checkpoint_to_continue(Path(mkdtemp())) is None
        True
    """
    readable: list[tuple[Path, Mapping[str, Any]]] = []
    for path in (folder / NAME, folder / "checkpoints" / "last.ckpt"):
        if not path.is_file():
            continue
        # the other one may be whole
        with suppress(RefusedFile, OSError):
            readable.append((path, read_checkpoint(path, mmap=True)))
    # the first of those that have come as far, which is the exact one
    return max(readable, key=lambda found: found[1].get("global_step", 0), default=None)


def is_finished(stored: Mapping[str, Any], max_epochs: int | None, max_steps: int) -> bool:
    """Tell whether a run had come to its end, and would have to be made longer to go on.

    Args:
        stored: A checkpoint.
        max_epochs: The number of epochs that is asked for now.
        max_steps: The number of steps that is asked for now, -1 for any.

    Example:
        >>> is_finished({KEY: {"finished": {"max_epochs": 3, "max_steps": -1}}}, 3, -1)
        True
        >>> is_finished({KEY: {"finished": {"max_epochs": 3, "max_steps": -1}}}, 5, -1)
        False
    """
    finished = stored.get(KEY, {}).get("finished")
    return finished is not None and finished == {"max_epochs": max_epochs, "max_steps": max_steps}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
