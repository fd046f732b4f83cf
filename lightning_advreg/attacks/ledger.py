"""Progress of an evaluation on disk: a file for each finished batch, of which a killed process leaves no half one."""

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_advreg.files import RefusedFile, read_tensors, write_json, writing

_PLUMBING = {"batch_size", "progress", "checkpoint", "acceleration", "check"}


@dataclass
class BatchResult:
    """What one attack did to one batch.

    Attributes:
        fallen: Places in the data of the images that fell, int64.
        x_adv: The attacked images at these places, on the CPU.
        seconds: How long it took.
    """

    fallen: Tensor
    x_adv: Tensor
    seconds: float


class Ledger:
    """The folder that an evaluation continues from.

    Args:
        folder: Where to save; None saves nothing.
        fingerprint: What the evaluation is of, by name, to recognise it by.

    Raises:
        ValueError: If the folder holds the progress of another evaluation.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, fingerprint: Mapping[str, str]) -> None:
        self.folder = None if folder is None else Path(folder)
        self._fingerprint = dict(fingerprint)
        self._manifest = {} if self.folder is None else _read_manifest(self.folder)
        differing = [name for name, value in self._fingerprint.items() if self._manifest.get(name, value) != value]
        if differing:
            raise ValueError(
                f"checkpoint {str(folder)!r} holds the progress of another evaluation: its {' and '.join(differing)} "
                "differ; give an empty folder, or delete this one to start again."
            )

    @property
    def batch_size(self) -> int | None:
        """The batch size that the evaluation began with, which it must keep to end with the same result."""
        size = self._manifest.get("batch_size")
        return None if size is None else int(size)

    def open(self, batch_size: int) -> None:
        """Note what the evaluation is of; one process calls this."""
        if self.folder is not None and not self._manifest:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "manifest.json", {**self._fingerprint, "batch_size": str(batch_size)})

    def read(self, stage: str, number: int) -> BatchResult | None:
        """Give what was saved of a batch, or None."""
        path = self._path(stage, number)
        if path is None or not path.is_file():
            return None
        return _result(path)

    def write(self, stage: str, number: int, result: BatchResult) -> None:
        """Save a finished batch."""
        path = self._path(stage, number)
        if path is None:
            return
        with writing(path) as draft:
            torch.save(vars(result), draft)

    def _path(self, stage: str, number: int) -> Path | None:
        return None if self.folder is None else self.folder / re.sub(r"[^\w.-]", "_", stage) / f"{number:06d}.pt"


def fingerprint(model: object, x: Tensor, y: Tensor, stages: Mapping[str, object], seed: int | None) -> dict[str, str]:
    """Describe an evaluation, so that its progress is recognised: network weights, images, labels and attacks."""
    state = model.state_dict() if isinstance(model, nn.Module) else {}
    return {
        "network": _digest(*(value for _, value in sorted(state.items()) if isinstance(value, Tensor))),
        "images": _digest(x),
        "labels": _digest(y),
        "attacks": json.dumps({name: describe_attack(attack) for name, attack in stages.items()}),
        "seed": str(seed),
    }


def describe_attack(attack: object) -> dict[str, object]:
    """Give the class and the settings of an attack that decide its result, as plain values."""
    settings: dict[str, object] = {}
    if dataclasses.is_dataclass(attack) and not isinstance(attack, type):
        for field in dataclasses.fields(attack):
            if field.name not in _PLUMBING:
                value = getattr(attack, field.name)
                settings[field.name] = value if _is_plain(value) else repr(value)
    else:
        # what else an attack of others holds may be its network, or a count that changes from call to call
        public = {name: value for name, value in getattr(attack, "__dict__", {}).items() if not name.startswith("_")}
        settings = {name: value for name, value in public.items() if _is_plain(value)}
    name = getattr(attack, "__name__", type(attack).__name__)
    return {"attack": name, **settings}


def _is_plain(value: object) -> bool:
    return isinstance(value, str | int | bool | None) or (isinstance(value, float) and math.isfinite(value))


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        # as bytes: numpy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _read_manifest(folder: Path) -> dict[str, str]:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"checkpoint must be a folder, but {str(folder)!r} is a file; give another path.")
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RefusedFile(
            f"{path} is no record of an evaluation: {error}; delete its folder to start again."
        ) from error
    if not isinstance(manifest, dict) or not str(manifest.get("batch_size", 1)).isdecimal():
        raise RefusedFile(f"{path} is no record of an evaluation; delete its folder to start again.")
    return manifest


def _result(path: Path) -> BatchResult:
    stored = read_tensors(path, "saved batch of an evaluation", remedy="delete it, and it is computed again")
    try:
        return BatchResult(**stored)
    except TypeError as error:
        raise RefusedFile(f"{path} is no saved batch of an evaluation; delete it, and it is computed again.") from error
