"""Single arrays of an ``.npz`` file, mapped from the disk where they are stored as they are."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_LOCAL_HEADER = struct.Struct("<26xHH")
"""The end of a member's local header: the lengths of name and extra field, which the data follow."""


@dataclass(frozen=True, kw_only=True)
class StoredArray:
    """An array in an ``.npz`` file, as its header describes it.

    Args:
        path: The file.
        key: The name of the array.
        shape: Its shape.
        dtype: Its type.
        fortran_order: Whether its first axis varies fastest.
        offset: Where its values begin in the file, in bytes; None where they are compressed.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "data.npz"
        >>> np.savez(path, image=np.arange(6).reshape(2, 3))
        >>> stored = stored_array(path, "image")
        >>> stored.shape, stored.offset is None, stored.read()[1].tolist()
        ((2, 3), False, [3, 4, 5])
    """

    path: str
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    offset: int | None

    @property
    def nbytes(self) -> int:
        """The size of the values in memory, in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def read(self) -> NDArray[Any]:
        """Give the array: mapped from the file where it is stored as it is, read into memory where it is compressed.

        Raises:
            ValueError: If it holds Python objects, which are never read, or the file is damaged.
        """
        with _undamaged(self.path):
            if self.offset is None or self.dtype.hasobject or self.nbytes == 0:
                with np.load(self.path, allow_pickle=False) as file:
                    return np.asarray(file[self.key])
            order = "F" if self.fortran_order else "C"
            # np.load ignores mmap_mode inside of an .npz
            mapped = np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape, order=order)  # type: ignore[call-overload]
            return np.asarray(mapped)


def stored_array(path: str | Path, key: str) -> StoredArray:
    """Describe an array of an ``.npz`` file from its header alone.

    Args:
        path: The file, a zip archive as ``numpy.savez`` and ``numpy.savez_compressed`` write it.
        key: The name of the array.

    Raises:
        KeyError: If the file has no such array.
        ValueError: If the file is damaged.
    """
    with _undamaged(path), zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{key}.npy")
        with archive.open(member) as array:
            version = npy.read_magic(array)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran_order, dtype = read_header(array)
            header = array.tell()
    offset = None
    if member.compress_type == zipfile.ZIP_STORED:
        with open(path, "rb") as file:
            file.seek(member.header_offset)
            # the local header: its extra field may differ in length from that of the central directory
            name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        offset = member.header_offset + _LOCAL_HEADER.size + name + extra + header
    return StoredArray(
        path=str(path), key=key, shape=tuple(shape), dtype=dtype, fortran_order=fortran_order, offset=offset
    )


def array_names(path: str | Path) -> set[str]:
    """Give the names of the arrays of an ``.npz`` file.

    Raises:
        ValueError: If it is no such file.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is no .npz file, or its end is missing; write one with numpy.savez, or copy it again."
        )
    with _undamaged(path), zipfile.ZipFile(path) as file:
        return {name.removesuffix(".npy") for name in file.namelist()}


def read_arrays(path: str | Path, *keys: str) -> list[NDArray[Any]]:
    """Read arrays of an ``.npz`` file into memory.

    Args:
        path: The file.
        *keys: The names of the arrays.

    Raises:
        ValueError: If one holds Python objects, which are never read, or the file is damaged.
    """
    with _undamaged(path), np.load(path, allow_pickle=False) as file:
        return [file[key] for key in keys]


@contextmanager
def _undamaged(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error, NotImplementedError) as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"{path} holds pickled objects, which are not read; save plain arrays.") from error
        raise ValueError(
            f"{path} is damaged or cut off ({str(error) or type(error).__name__}); copy, download or write it again."
        ) from error
