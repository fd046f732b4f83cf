"""The folder of a run: it can be written to, holds one run at a time, and loses nothing of earlier ones."""

import itertools
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

LOCK = ".lock"
"""The file that a run holds in its folder while it goes on."""


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
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the lock falls with the process, however that ends.

    Where the system or the file system has no locks, there is none.

    Args:
        folder: The folder, which exists.

    Raises:
        RuntimeError: If another run holds it.
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
            raise RuntimeError(
                f"{folder} is in use by {holder}, and two runs in one folder would overwrite each other; wait for its "
                "end, or set trainer.default_root_dir (--trainer.default_root_dir FOLDER) to another folder."
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
    except (PermissionError, RuntimeError) as error:
        sys.exit(f"lightning-advreg: {error}")


@rank_zero_only
def set_aside(path: Path) -> None:
    """Rename a file or folder that an earlier run left, to the first free name with a number."""
    # CSVLogger deletes what an earlier run left
    if path.exists():
        names = (path.with_name(f"{path.stem}_{number}{path.suffix}") for number in itertools.count(1))
        path.rename(next(name for name in names if not name.exists()))
