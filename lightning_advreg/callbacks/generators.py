"""What callbacks ask of a module that generates: noise, labels, and images in [0, 1]."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_advreg.callbacks.isolation import isolated_rng
from lightning_advreg.modules import gan_checks


def check_generates(pl_module: pl.LightningModule, callback: str, rows: int = 1) -> None:
    """Check that a module can sample, and has enough fixed noise.

    Args:
        pl_module: The module.
        callback: Who asks.
        rows: How many rows of ``fixed_latent`` are needed.

    Raises:
        TypeError: If it has no buffer ``fixed_latent`` or no method ``sample``.
        ValueError: If ``fixed_latent`` has too few rows.
    """
    latent, sample = getattr(pl_module, "fixed_latent", None), getattr(pl_module, "sample", None)
    if not isinstance(latent, Tensor) or not callable(sample):
        raise TypeError(
            f"{callback} needs a module with a buffer `fixed_latent` and a method `sample(z)`, which "
            f"{type(pl_module).__name__} lacks; use lightning_advreg.GAN, or add both."
        )
    if len(latent) < rows:
        raise ValueError(
            f"{callback} needs {rows} rows of the module's fixed_latent, which has {len(latent)}; show fewer images, "
            f"or give GAN(num_fixed={rows})."
        )


def classes_of(pl_module: pl.LightningModule) -> int | None:
    """Give how many classes a module, or its ``generator``, makes images of; None if it takes no labels."""
    return gan_checks.classes_of(getattr(pl_module, "generator", pl_module))


def cycled_labels(pl_module: pl.LightningModule, count: int) -> Tensor | None:
    """Give labels 0, 1, ..., K - 1, 0, ... for ``count`` images; None for a module that takes none."""
    classes = classes_of(pl_module)
    return None if classes is None else torch.arange(count, device=pl_module.device) % classes


def generated(pl_module: pl.LightningModule, z: Tensor, y: Tensor | None, *, at_once: int = 256) -> Tensor:
    """Sample, and leave the random generators of training as they were.

    Args:
        pl_module: The module.
        z: Noise ``(N, latent_dim)``.
        y: Labels ``(N,)`` for a conditional generator, or None.
        at_once: How many images to make in one pass.

    Returns:
        Images ``(N, C, H, W)``, float32, on the CPU.
    """
    module: Any = pl_module
    with torch.no_grad(), isolated_rng(pl_module.device):
        labels = [None] * len(z) if y is None else y.split(at_once)
        parts = [
            module.sample(noise) if label is None else module.sample(noise, label)
            for noise, label in zip(z.split(at_once), labels, strict=False)
        ]
    return torch.cat([part.float().cpu() for part in parts])


def images_of(batch: object, callback: str) -> Tensor:
    """Give the images of a batch, its first tensor.

    Raises:
        TypeError: If a batch is neither images nor a pair that begins with them.
    """
    first = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(first, Tensor) or first.dim() != 4:
        raise TypeError(
            f"{callback} needs batches that begin with images (N, C, H, W), got {type(batch).__name__}; turn batches "
            "into pairs in the loader's collate_fn."
        )
    return first
