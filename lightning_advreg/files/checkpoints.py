"""Checkpoints of Lightning: what is checked before anything of one is used."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from packaging.version import InvalidVersion, Version

from lightning_advreg import __version__
from lightning_advreg.files.refused import RefusedFile
from lightning_advreg.files.tensors import read_tensors, read_tensors_of

KEY = "lightning_advreg"
"""What this library stores in a checkpoint: class, version, random state and changes."""

ADD_SAFE = (
    "for objects of a class of your own that you trust, call torch.serialization.add_safe_globals([YourClass]) where "
    "it is defined"
)
"""What to do where a checkpoint holds more than plain values."""

_NAMES = ("best", "last", "hpc", "registry")
_WEIGHTS = "state_dict"
_OF_LIGHTNING = "pytorch-lightning_version"
# what Lightning reads of a checkpoint without looking, and of which type it must be
_PARTS: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "global_step": (int,),
    "loops": (Mapping,),
    "callbacks": (Mapping,),
    "hyper_parameters": (Mapping,),
    "optimizer_states": (list,),
    "lr_schedulers": (list,),
    KEY: (Mapping,),
    "exact_resume": (Mapping,),
}
_OURS: dict[str, tuple[type, ...]] = {
    "class": (str,),
    "version": (str,),
    "random_state": (Mapping, torch.Tensor),
    "left_out": (list, tuple),
    "changes": (Mapping,),
}


def read_checkpoint(
    source: str | os.PathLike[str] | IO[bytes],
    *,
    map_location: Any = "cpu",  # noqa: ANN401
    mmap: bool = False,
) -> dict[str, Any]:
    """Read a checkpoint of Lightning without running anything of it.

    Args:
        source: The file, or an open one.
        map_location: Where to put tensors, as in ``torch.load``.
        mmap: Leave tensors on the disk until they are used.

    Returns:
        The checkpoint: plain values and tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        RefusedFile: If it is no whole checkpoint, asks for anything but tensors and plain values, or was written by a
            newer version of this library.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "weights.ckpt")
        >>> torch.save({"weight": torch.ones(2)}, path)
        >>> read_checkpoint(path)
        Traceback (most recent call last):
        ...
        lightning_advreg.files.refused.RefusedFile: ...weights.ckpt is no checkpoint of Lightning: ...
    """
    if isinstance(source, str | os.PathLike):
        stored, name = read_tensors(source, map_location=map_location, mmap=mmap), str(Path(source))
    else:
        stored = read_tensors_of(source, map_location=map_location)
        name = f"the file {getattr(source, 'name', 'given')!r}"
    if not isinstance(stored, dict):
        raise RefusedFile(
            f"{name} is no checkpoint of Lightning: it holds a {type(stored).__name__}; give what "
            "trainer.save_checkpoint wrote."
        )
    lacking = [key for key in (_WEIGHTS, _OF_LIGHTNING) if key not in stored]
    if lacking:
        raise RefusedFile(
            f"{name} is no checkpoint of Lightning: it lacks {' and '.join(lacking)}; give what "
            "trainer.save_checkpoint wrote. If it holds weights alone, load them with network.load_state_dict."
        )
    _check_weights(stored[_WEIGHTS], name)
    _check_parts(stored, _PARTS, name)
    _check_parts(stored.get(KEY, {}), _OURS, name)
    _check_lightning(stored[_OF_LIGHTNING], name)
    check_version(stored.get(KEY, {}).get("version"), name)
    return stored


def names_a_file(path: str | os.PathLike[str]) -> bool:
    """Tell whether a ``ckpt_path`` is that of one local file, rather than a name that Lightning resolves or a folder.

    Args:
        path: What was given.

    Example:
        >>> names_a_file("runs/a/last.ckpt"), names_a_file("best"), names_a_file("s3://bucket/last.ckpt")
        (True, False, False)
    """
    named = "://" in str(path) or str(path).partition(":")[0] in _NAMES
    # strategies that split a network write folders
    return not named and not any(Path(path, name).exists() for name in (".metadata", "meta.pt", "checkpoint"))


def _check_weights(weights: object, name: str) -> None:
    if not isinstance(weights, Mapping) or not all(isinstance(key, str) for key in weights):
        raise RefusedFile(f"{name} is a damaged checkpoint: its state_dict holds no weights by name.")


def _check_parts(stored: Mapping[str, Any], parts: Mapping[str, tuple[type, ...]], name: str) -> None:
    for key, types in parts.items():
        value = stored.get(key)
        if value is not None and (not isinstance(value, types) or isinstance(value, bool)):
            raise RefusedFile(
                f"{name} is a damaged checkpoint: its {key!r} is a {type(value).__name__} instead of a "
                f"{types[0].__name__}; take another one."
            )


def _check_lightning(version: object, name: str) -> None:
    # Lightning compares it to decide what to migrate, and would raise in the middle of that
    try:
        Version(str(version))
    except InvalidVersion as error:
        raise RefusedFile(
            f"{name} is a damaged checkpoint: its version of Lightning is {version!r}; take another one."
        ) from error


def check_version(version: str | None, name: str) -> None:
    """Check that a file is not of a newer version of this library.

    Args:
        version: What it says; None for files of before it was noted, which load.
        name: The file, for the message.

    Raises:
        RefusedFile: If it is newer, or no version.
    """
    try:
        newer = version is not None and Version(version) > Version(__version__)
    except InvalidVersion as error:
        raise RefusedFile(
            f"{name} is a damaged checkpoint: its version of lightning_advreg is {version!r}; take another one."
        ) from error
    if newer:
        raise RefusedFile(
            f"{name} was written by lightning_advreg {version}, and this is {__version__}, which cannot know what it "
            f"means; install that with `pip install 'lightning-advreg>={version}'`."
        )
