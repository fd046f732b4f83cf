"""What is not worth a run: a file of it that the disk does not take."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

SURVIVED = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ETIMEDOUT")
    if hasattr(errno, name)
)
"""Errors of a disk that is full, protected or away, rather than of a path that could never be written."""


@contextmanager
def outlasting(path: str | os.PathLike[str]) -> Iterator[None]:
    """Go on with a warning where a file cannot be written because the disk is full, protected or away.

    For files that a run leaves besides its checkpoints, such as pictures: hours of training are worth more.

    Args:
        path: The file.

    Raises:
        OSError: Of any other kind.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     with outlasting("runs/a/picture.png"):
        ...         raise OSError(errno.ENOSPC, "No space left on device")
        >>> str(caught[0].message)[:83]
        'runs/a/picture.png could not be written (No space left on device), and the run goes'
    """
    try:
        yield
    except OSError as error:
        if error.errno not in SURVIVED:
            raise
        warnings.warn(
            f"{os.fspath(path)} could not be written ({error.strerror}), and the run goes on without it. Free space on "
            "the disk or make the folder writable.",
            stacklevel=3,
        )
