"""Samples of a generator, the same ones each time, dealt out to processes."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_advreg.attacks.randomness import stream_of
from lightning_advreg.callbacks.generators import classes_of
from lightning_advreg.metrics import InterpolationSmoothness


class SampleStream:
    """Draw samples in batches, of which each process takes its part.

    Noise depends on seed and place alone, on any device and for any number of processes. A conditional generator is
    asked for its classes in turn.

    Args:
        module: The module, with ``latent_dim`` and ``sample(z)`` or ``sample(z, y)``.
        batch_size: Samples per batch, over all processes.
        seed: Of the noise.
        rank: This process.
        world_size: The number of processes.

    Example:
        >>> from lightning_advreg import GAN
        >>> from lightning_advreg.networks import MLPDiscriminator, MLPGenerator
        >>> gan = GAN(MLPGenerator(latent_dim=8), MLPDiscriminator())
        >>> [(len(x), y, drawn) for x, y, drawn in SampleStream(gan, batch_size=4).samples(6)]
        [(4, None, 4), (2, None, 2)]
    """

    def __init__(
        self, module: pl.LightningModule, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self._module: Any = module
        self._batch_size, self._seed = batch_size, seed
        self._rank, self._size = rank, world_size
        self._classes = classes_of(module)
        self._broken = torch.zeros((), dtype=torch.int64, device=module.device)

    @staticmethod
    def check(module: pl.LightningModule, callback: str) -> None:
        """Check that a module can be sampled from.

        Raises:
            TypeError: If it lacks ``latent_dim`` or ``sample``.
        """
        if not isinstance(getattr(module, "latent_dim", None), int) or not callable(getattr(module, "sample", None)):
            raise TypeError(
                f"{callback} needs a module with a number `latent_dim` and a method `sample(z)`, which "
                f"{type(module).__name__} lacks; use lightning_advreg.GAN, or add both."
            )

    def samples(self, count: int) -> Iterator[tuple[Tensor, Tensor | None, int]]:
        """Give this process's images of each batch, the classes asked for, and the size of the batch."""
        for first in range(0, count, self._batch_size):
            size = min(self._batch_size, count - first)
            (z,) = self._noise(0, first, size, 1)
            y = self._labels(first, size)
            if len(z) > 0:
                yield self._images(z, y), y, size

    def steps(self, metric: InterpolationSmoothness) -> Iterator[tuple[Tensor, Tensor]]:
        """Give this process's images on paths between noise vectors, and those a step further."""
        for first in range(0, metric.pairs, self._batch_size):
            size = min(self._batch_size, metric.pairs - first)
            start, end = self._noise(1, first, size, 2)
            stream = torch.Generator().manual_seed(stream_of(self._seed, 2, first) or 0)
            t = torch.rand(size, generator=stream)[self._rank :: self._size].to(start.device)
            y = self._labels(first, size)
            if len(t) > 0:
                here, there = metric.path(start, end, t)
                yield self._images(here, y), self._images(there, y)

    def check_finite(self) -> None:
        """Check the pixels of all images so far; waits for the device.

        Raises:
            ValueError: If some are not finite.
        """
        if broken := int(self._broken):
            raise ValueError(
                f"{broken} generated images have pixels that are not finite, so that nothing can be measured: the "
                "generator has diverged; go back to an earlier checkpoint, and lower its learning rate."
            )

    def _images(self, z: Tensor, y: Tensor | None) -> Tensor:
        images: Tensor = self._module.sample(z) if y is None else self._module.sample(z, y)
        self._broken += (~images.isfinite().flatten(1).all(1)).sum()
        return images.float()

    def _noise(self, kind: int, first: int, size: int, parts: int) -> list[Tensor]:
        # on the CPU, so that every device sees the same
        stream = torch.Generator().manual_seed(stream_of(self._seed, kind, first) or 0)
        drawn = torch.randn(parts, size, self._module.latent_dim, generator=stream)[:, self._rank :: self._size]
        return list(drawn.to(self._module.device, self._module.dtype))

    def _labels(self, first: int, size: int) -> Tensor | None:
        if self._classes is None:
            return None
        mine = torch.arange(first, first + size)[self._rank :: self._size]
        return (mine % self._classes).to(self._module.device)
