"""Loggers: Weights & Biases, for runs that continue, on machines with and without a network.

Importing this room does not import W&B, which is imported when a run begins.
"""

from lightning_advreg.loggers.portable import without_paths
from lightning_advreg.loggers.wandb_logger import ResumableWandbLogger

__all__ = ["ResumableWandbLogger", "without_paths"]
