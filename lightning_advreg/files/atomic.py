"""Writing files so that each is there as a whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import time
from typing import Any
from uuid import uuid4

_STALE = 3600.0


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside a file to write to, which becomes the file when the block ends well.

    The content goes to the disk (``fsync``) before it takes the place of what was there (``os.replace``). So a reader
    sees the old file or the new one, also after a power cut, and a full disk leaves the old one. A block that fails
    leaves nothing behind. What a symbolic link points to is replaced, and not the link; the permissions of a file that
    is replaced are kept.

    Args:
        path: The file; its folder is made.

    Yields:
        Where to write: a path in the same folder with the same ending, so that whoever looks at endings finds theirs.

    Raises:
        OSError: If the folder or the file cannot be written; the file that was there is as it was.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "results.txt")
        >>> with writing(path) as draft:
        ...     _ = draft.write_text("0.91")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('0.91', 1)
    """
    # a link that points nowhere is followed too, to where it points
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(target)
    try:
        yield draft
        take_place(draft, target)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write bytes as a whole or not at all.

    Args:
        path: The file; its folder is made.
        content: Its content.

    Raises:
        OSError: If it cannot be written; the file that was there is as it was.
    """
    with writing(path) as draft:
        draft.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write text in UTF-8 as a whole or not at all.

    Args:
        path: The file; its folder is made.
        text: Its content. Line ends stay as they are.

    Raises:
        OSError: If it cannot be written; the file that was there is as it was.
    """
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], content: Any, *, allow_nan: bool = True) -> None:  # noqa: ANN401
    """Write plain values as indented JSON, as a whole or not at all.

    Args:
        path: The file; its folder is made.
        content: Plain values.
        allow_nan: Whether NaN and infinities are written, which JSON proper does not know.

    Raises:
        OSError: If it cannot be written; the file that was there is as it was.
        TypeError: If a value is not plain.
        ValueError: If a number is not finite, and ``allow_nan`` is false.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=allow_nan) + "\n")


def clear_drafts(folder: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed while they wrote have left in a folder.

    Args:
        folder: The folder; it need not exist. Drafts that were touched within the last hour are left alone, since
            another process may be at work on them.
    """
    for draft in Path(folder).glob(".*.draft*"):
        with suppress(OSError):
            if draft.is_file() and time() - draft.stat().st_mtime > _STALE:
                draft.unlink()


def _draft(target: Path) -> Path:
    # a leading dot keeps it out of *.ckpt and *.json; unlike process numbers, the name is new on every machine
    return target.with_name(f".{target.stem[:100]}.{uuid4().hex[:12]}.draft{target.suffix}")


def take_place(draft: Path, target: Path) -> None:
    """Let a file that is written take the place of another, once all of it is on the disk.

    Args:
        draft: The file, in the folder of the other.
        target: The other, which need not exist; its permissions are kept.

    Raises:
        OSError: If it cannot.
    """
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    with suppress(FileNotFoundError):
        draft.chmod(target.stat().st_mode & 0o777)
    os.replace(draft, target)
    # the new name has to reach the disk too; not every system lets folders be opened, or be synchronised
    with suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
