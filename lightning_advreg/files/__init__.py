"""Files: written as a whole or not at all, and read without running what they say.

Importing this room imports none of PyTorch, Lightning and Matplotlib, so that every other room can write its files with
it. What needs PyTorch, or Lightning (:class:`SafeCheckpointIO`, a plugin of it), is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lightning_advreg.files.atomic import write_bytes, write_json, write_text, writing
from lightning_advreg.files.refused import RefusedFile, UnfitWeights

if TYPE_CHECKING:
    from lightning_advreg.files.checkpoint_io import SafeCheckpointIO
    from lightning_advreg.files.checkpoints import read_checkpoint
    from lightning_advreg.files.tensors import read_tensors
    from lightning_advreg.files.weights import export_weights, load_network, load_weights

__all__ = [
    "RefusedFile",
    "SafeCheckpointIO",
    "UnfitWeights",
    "export_weights",
    "load_network",
    "load_weights",
    "read_checkpoint",
    "read_tensors",
    "write_bytes",
    "write_json",
    "write_text",
    "writing",
]

_ON_USE = {
    "SafeCheckpointIO": "checkpoint_io",
    "export_weights": "weights",
    "load_network": "weights",
    "load_weights": "weights",
    "read_checkpoint": "checkpoints",
    "read_tensors": "tensors",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name in _ON_USE:
        return getattr(importlib.import_module(f"lightning_advreg.files.{_ON_USE[name]}"), name)
    raise AttributeError(f"module 'lightning_advreg.files' has no attribute {name!r}")
