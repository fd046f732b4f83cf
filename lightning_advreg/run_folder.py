"""The folder of a run: one run at a time, and a folder that can be written to, before any time is spent."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
