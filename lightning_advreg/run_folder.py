"""The folder of a run: it can be written to, holds one run at a time, and loses nothing of earlier ones."""

import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from lightning_advreg.files import aside

LOCK = ".lock"
"""The file that a run holds in its folder while it goes on."""

_REMEDY = "set trainer.default_root_dir (--trainer.default_root_dir FOLDER) to another folder"


def check_writable(folder: Path) -> None:
    """Make a folder, and check that files can be written there.

    Args:
        folder: The folder.

    Raises:
        PermissionError: If it cannot be made or written to.

    Example:
        >>> check_writable(Path(tempfile.mkdtemp()) / "runs" / "mine")
        >>> file = Path(tempfile.mkstemp()[1])
        >>> check_writable(file / "runs")
        Traceback (most recent call last):
        ...
        PermissionError: nothing can be written into .../runs (Not a directory); ...
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # a full disk lets files be made, and nothing be written
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        raise PermissionError(
            f"nothing can be written into {folder} ({error.strerror or error}); set trainer.default_root_dir "
            "(--trainer.default_root_dir FOLDER) to a folder that can be written to."
        ) from error


@contextmanager
def held(folder: Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Keep other runs out of a folder; the lock falls with the process, however that ends.

    Where the system or the file system has no locks, there is none.

    Args:
        folder: The folder, which exists.
        remedy: What to do instead of waiting, for the message.

    Raises:
        ValueError: If another run holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = folder / LOCK
    while True:
        lock = path.open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise ValueError(
                f"{folder} is in use by {holder}, and two runs in one folder would overwrite each other; wait for its "
                f"end, or {remedy}."
            ) from None
        except OSError:
            # a network drive without locks
            lock.close()
            yield
            return
        if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
            break
        # the run that held it has just removed it
        lock.close()
    with lock:
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@rank_zero_only
def take(folder: Path, until: ExitStack) -> None:
    """Make sure of a run's folder before any time is spent.

    Args:
        folder: The folder; it is made.
        until: What lets go of the folder when it is closed.

    Raises:
        SystemExit: If the folder cannot be written to, or another run holds it.
    """
    try:
        check_writable(folder)
        until.enter_context(held(folder))
    except (PermissionError, ValueError) as error:
        sys.exit(f"lightning-advreg: {error}")


def belongs_to(checkpoint: str | os.PathLike[str], root: Path) -> bool:
    """Tell whether a ``ckpt_path`` is of the run that a folder holds now.

    Args:
        checkpoint: A path, or a name that Lightning resolves within the folder, such as ``last``.
        root: The run's folder. Checkpoints that were set aside there are of an earlier run.

    Example:
        >>> files = ("checkpoints/last.ckpt", "checkpoints_1/last.ckpt", "resume.ckpt", "resume_1.ckpt")
        >>> [belongs_to(f"runs/a/{file}", Path("runs/a")) for file in files]
        [True, False, True, False]
        >>> belongs_to("last", Path("runs/a")), belongs_to("runs/b/checkpoints/last.ckpt", Path("runs/a"))
        (True, False)
    """
    if str(checkpoint) in ("best", "last", "hpc"):
        return True
    path, folder = Path(checkpoint).resolve(), root.resolve()
    if "://" in str(checkpoint) or not path.is_relative_to(folder):
        return False
    first = path.relative_to(folder).parts[:1]
    return not any(re.fullmatch(r"checkpoints_\d+|resume_\d+\.ckpt", part) for part in first)


@rank_zero_only
def set_aside(path: Path) -> None:
    """Rename a file or folder that an earlier run left, in the main process alone."""
    # CSVLogger deletes what an earlier run left
    aside.set_aside(path)
