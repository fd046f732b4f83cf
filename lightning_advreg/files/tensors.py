"""Tensors and plain values from files of ``torch.save``, without running what the files say."""

import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import serialization

from lightning_advreg.files.pickles import Unbounded, check_extent, check_keys
from lightning_advreg.files.refused import RefusedFile

_PICKLE = "data.pkl"
_ZIP, _OLD = b"PK\x03\x04", b"\x80\x02"
_LARGEST_PICKLE = 256 * 2**20
# torch.load raises all of these at files that are not what they seem
_FAILURES = (
    pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, KeyError, IndexError,
    AttributeError, AssertionError, RecursionError, OverflowError, MemoryError,
)  # fmt: skip


def read_tensors(
    path: str | os.PathLike[str],
    what: str = "checkpoint",
    *,
    remedy: str = "take an earlier one, or copy it again",
    map_location: Any = "cpu",  # noqa: ANN401
    mmap: bool = False,
    old_format: bool = False,
) -> Any:  # noqa: ANN401
    """Read what ``torch.save`` wrote, if it is tensors and plain values.

    The file is checked before anything of it is built: that it is whole, with the checksum of every record, that no
    record claims to be larger than it is, and that its pickle stays within what plain values need. Then it is read by
    ``torch.load(weights_only=True)``, which builds tensors, containers, numbers and text, and calls nothing else.

    Args:
        path: The file.
        what: What it should be, for the message.
        remedy: What to do about a file that is damaged, for the message.
        map_location: Where to put tensors, as in ``torch.load``.
        mmap: Leave tensors on the disk until they are used.
        old_format: Also read files of PyTorch before 1.6, which have no checksums.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        RefusedFile: If it is a folder, empty, truncated, damaged, of another kind, or asks for anything but tensors and
            plain values.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "weights.pt")
        >>> torch.save({"weight": torch.ones(2)}, path)
        >>> read_tensors(path)
        {'weight': tensor([1., 1.])}
        >>> _ = path.write_bytes(path.read_bytes()[:-10])
        >>> read_tensors(path)
        Traceback (most recent call last):
        ...
        lightning_advreg.files.refused.RefusedFile: ...weights.pt is a truncated checkpoint: its end is missing; ...
    """
    path = Path(path)
    begin = check_file(path, what, remedy)
    if begin.startswith(_ZIP):
        _check_archive(path, what, remedy)
    elif old_format and begin.startswith(_OLD):
        mmap = False
    else:
        raise RefusedFile(
            f"{path} is no {what}: it begins with {begin[:16]!r}, and files of torch.save with {_ZIP!r}; {remedy}."
        )
    return _load(path, what, remedy, map_location=map_location, mmap=mmap)


def read_tensors_of(file: IO[bytes], what: str = "checkpoint", *, map_location: Any = "cpu") -> Any:  # noqa: ANN401
    """Read an open file, such as one of a remote file system, as :func:`read_tensors` reads a path.

    Args:
        file: The file, opened in binary, at its beginning.
        what: What it should be, for the message.
        map_location: Where to put tensors, as in ``torch.load``.

    Returns:
        What the file holds.

    Raises:
        RefusedFile: If it is anything but tensors and plain values.
    """
    remedy = "take an earlier one, or copy it again"
    if file.seekable():
        begin = file.tell()
        _check_archive(file, what, remedy)
        file.seek(begin)
    return _load(file, what, remedy, map_location=map_location)


def check_file(path: Path, what: str, remedy: str) -> bytes:
    """Check that there is a file with something in it, and give its first bytes.

    Args:
        path: The file.
        what: What it should be, for the message.
        remedy: What to do about it, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        RefusedFile: If it is a folder, empty, or cannot be read.
    """
    if path.is_dir():
        inside = sorted(each.name for each in path.glob("*.*") if each.is_file())[:3]
        raise RefusedFile(
            f"{path} is a folder, not a {what}; give the path of a file"
            f"{f', such as {path / inside[0]}' if inside else ''}."
        )
    if not path.exists():
        raise FileNotFoundError(f"there is no {what} {path.absolute()}; {_nearest(path)}.")
    try:
        with path.open("rb") as file:
            begin = file.read(64)
    except OSError as error:
        raise RefusedFile(f"{path} cannot be read: {error.strerror}; change its permissions, or copy it.") from error
    if not begin:
        raise RefusedFile(f"{path} is an empty file, no {what}: writing it was cut off; {remedy}.")
    return begin


def first_line(error: BaseException) -> str:
    """Give the first line of what an error says, or its name where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _nearest(path: Path) -> str:
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"there is no folder {folder} either, so look at the path"
    beside = sorted(each.name for each in folder.iterdir() if each.suffix == path.suffix and each.is_file())[:5]
    return (
        f"the folder has {', '.join(beside)}" if beside else f"the folder has no file {path.suffix or 'without ending'}"
    )


def _check_archive(source: Path | IO[bytes], what: str, remedy: str) -> None:
    path = _name(source)
    try:
        with zipfile.ZipFile(source) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                # torch.save compresses nothing; a few bytes could claim to be gigabytes
                raise RefusedFile(f"{path} is no {what}: it is a compressed archive; {remedy}.")
            plain = [record for record in records if record.filename.rpartition("/")[2] == _PICKLE]
            if len(plain) != 1:
                names = ", ".join(sorted({record.filename.partition("/")[0] for record in records})[:3])
                raise RefusedFile(
                    f"{path} is no {what}, but an archive{f' of {names}' if names else ' of nothing'}; {remedy}."
                )
            if plain[0].file_size > _LARGEST_PICKLE:
                raise RefusedFile(
                    f"{path} holds {plain[0].file_size} bytes of plain values, and at most {_LARGEST_PICKLE} are read; "
                    "keep data in tensors."
                )
            # a program may switch checksums off for what it saves
            if serialization.get_crc32_options():
                for record in records:
                    with archive.open(record) as content:
                        while content.read(2**20):
                            pass
            check_keys(archive.read(plain[0]))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, RefusedFile):
            raise
        if isinstance(error, Unbounded):
            raise RefusedFile(f"{path} is no {what}: {error}; {remedy}.") from error
        if "CRC" in str(error):
            reason = f"a damaged {what}: {first_line(error)}"
        elif isinstance(error, zipfile.BadZipFile) and not zipfile.is_zipfile(source):
            reason = f"a truncated {what}: its end is missing"
        else:
            reason = f"a damaged or truncated {what}: {first_line(error)}"
        raise RefusedFile(f"{path} is {reason}; {remedy}.") from error


def _load(
    source: Path | IO[bytes],
    what: str,
    remedy: str,
    *,
    map_location: Any,  # noqa: ANN401
    mmap: bool = False,
) -> Any:  # noqa: ANN401
    name = _name(source)
    try:
        stored = torch.load(source, map_location=map_location, weights_only=True, mmap=mmap or None)
        check_extent(stored)
    except Unbounded as error:
        raise RefusedFile(f"{name} is no {what}: {error}; {remedy}.") from error
    except _FAILURES as error:
        text = " ".join(str(error).split())
        asked = re.search(r"GLOBAL ([\w.]+)", text)
        if isinstance(error, pickle.UnpicklingError) and asked:
            raise RefusedFile(
                f"{name} is not read as a {what}: it asks for {asked[1]}, which is neither a tensor nor a plain value, "
                "and could run code of whoever wrote it. Nothing of it was run. If it is your own class and you trust "
                f"the file, call torch.serialization.add_safe_globals([{asked[1].rpartition('.')[2]}]) first."
            ) from error
        if "out of memory" in text:
            raise
        said = re.search(r"WeightsUnpickler error: (.*?)(?= Check the documentation|$)", text)
        reason = said[1] if said and said[1] else f"{type(error).__name__}: {first_line(error)}"
        raise RefusedFile(f"{name} is a damaged {what}: {reason[:300]}; {remedy}.") from error
    return stored


def _name(source: Path | IO[bytes]) -> str:
    return str(source) if isinstance(source, Path) else f"the file {getattr(source, 'name', 'given')!r}"
