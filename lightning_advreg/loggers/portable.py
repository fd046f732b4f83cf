"""Configurations that leave the machine: without the paths of whoever ran them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any


def without_paths(value: Any) -> Any:  # noqa: ANN401
    """Make the absolute paths in plain values relative, so that they tell nothing of the machine.

    A path below the working folder becomes relative to it, one below the home folder begins with ``~``, and of any
    other the last part is left, behind ``.../``. Within longer texts the two folders are replaced likewise.

    Args:
        value: Plain values, mappings and sequences of them.

    Returns:
        The same; paths are strings, and tuples are lists.

    Example:
        >>> without_paths({"data_dir": Path.home() / "data", "file": "/mnt/disk/weights.pt", "eps": "8/255"})
        {'data_dir': '~/data', 'file': '.../weights.pt', 'eps': '8/255'}
    """
    if isinstance(value, Mapping):
        return {without_paths(key): without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, PurePath):
        value = str(value)
    return _text(value) if isinstance(value, str) else value


def relative_path(path: str | os.PathLike[str]) -> str:
    """Give a path relative to the working folder, or as it is where it lies elsewhere.

    Args:
        path: The path.

    Example:
        >>> relative_path(Path.cwd() / "runs" / "mine"), relative_path("runs/mine")
        ('runs/mine', 'runs/mine')
    """
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _text(text: str) -> str:
    # the deeper folder first, since one may lie within the other
    names = sorted({str(Path.home()): "~", str(Path.cwd()): "."}.items(), key=lambda item: -len(item[0]))
    for folder, name in names:
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", name, text)
    text = re.sub(r"^\./(?=.)", "", text)
    kind = PureWindowsPath if re.match(r"[A-Za-z]:[\\/]|\\\\", text) else PurePosixPath
    path = kind(text)
    if path.is_absolute() and "\n" not in text and len(path.parts) > 1:
        return f".../{path.name}"
    return text
