"""Files: written as a whole or not at all, and read without running what they say.

Importing this room imports neither Lightning nor Matplotlib, so that every other room can write its files with it.
:class:`SafeCheckpointIO`, which is a plugin of Lightning, is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lightning_advreg.files.atomic import write_bytes, write_json, write_text, writing
from lightning_advreg.files.checkpoints import read_checkpoint
from lightning_advreg.files.refused import RefusedFile, UnfitWeights
from lightning_advreg.files.tensors import read_tensors
from lightning_advreg.files.weights import export_weights, load_network, load_weights

if TYPE_CHECKING:
    from lightning_advreg.files.checkpoint_io import SafeCheckpointIO

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


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "SafeCheckpointIO":
        return importlib.import_module("lightning_advreg.files.checkpoint_io").SafeCheckpointIO
    raise AttributeError(f"module 'lightning_advreg.files' has no attribute {name!r}")
