"""Checkpoints of any module of this library."""

import importlib
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_advreg.files import read_checkpoint


def load_module(path: str | Path, device: torch.device | str = "cpu") -> LightningModule:
    """Load a checkpoint of any module of this library.

    Args:
        path: The file.
        device: Where to put it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint, or was saved by another module.
    """
    if not Path(path).exists():
        raise FileNotFoundError(
            f"there is no checkpoint {path}; `lightning-advreg fit` leaves last.ckpt in checkpoints/."
        )
    stored = read_checkpoint(path, mmap=True)
    saved_by = str(stored.get("lightning_advreg", {}).get("class", "another program"))
    kind: Any = getattr(importlib.import_module("lightning_advreg.modules"), saved_by.rpartition(".")[2], None)
    if not (isinstance(kind, type) and issubclass(kind, LightningModule)):
        raise ValueError(
            f"{path} was saved by {saved_by}, which is no module of lightning_advreg; load it in Python with "
            "load_from_checkpoint of that class."
        )
    return kind.load_from_checkpoint(path, map_location=device).to(device)
