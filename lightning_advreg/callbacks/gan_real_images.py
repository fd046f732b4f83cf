"""The real images that samples are compared with."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_advreg.data.share import Share
from lightning_advreg.metrics import FeatureExtractor, GenerationMetric
from lightning_advreg.metrics.gan_base import Origin
from lightning_advreg.metrics.gan_reference import ImageChecksum, ReferenceFile


class RealImages:
    """Show real images to metrics once, or read from a file what is known of them, and check it against the images.

    Args:
        extractor: What gives features.
        metrics: What takes them.
        reference: Which images are ``"real"`` to the metrics: ``"held_out"`` or ``"train"`` ones.
        share: This process's part of the held-out images.
        device: Where images, extractor and metrics are.

    Attributes:
        finished: Whether the metrics know all real images.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        metrics: Sequence[GenerationMetric],
        reference: Literal["held_out", "train"],
        share: Share,
        device: torch.device,
    ) -> None:
        self._extractor, self.metrics = extractor, metrics
        self._reference, self._share = reference, share
        needed = {reference if origin == "real" else origin for metric in metrics for origin in metric.origins}
        self._checksums: dict[str, ImageChecksum] = {
            origin: ImageChecksum().to(device) for origin in ("held_out", "train") if origin in needed
        }
        self._file: ReferenceFile | None = None
        self._stored: dict[str, list[int]] | None = None
        self.finished = False

    @property
    def needs_training_images(self) -> bool:
        """Whether a metric compares with the images of training."""
        return "train" in self._checksums

    def read(self, file: ReferenceFile, rank: int, world_size: int) -> None:
        """Take what a file knows, if it exists; :meth:`finish` writes it otherwise."""
        self._file, self._stored = file, file.load(self.metrics, rank, world_size)

    def see(self, x: Tensor, y: Tensor) -> None:
        """Look at the next batch of held-out images, from any mode of autograd."""
        counted = self._share.take(len(x))
        if counted > 0 and "held_out" in self._checksums:
            with torch.inference_mode(False), torch.no_grad():
                self._take("held_out", x[:counted].clone(), y[:counted].clone())

    def see_training(self, x: Tensor, y: Tensor) -> None:
        """Look at the next batch of training images."""
        self._take("train", x, y)

    def finish(self, *, write: bool) -> None:
        """Write the file, or check that it is of these images; every process must call this.

        Args:
            write: Whether this process is the one that writes.

        Raises:
            ValueError: If the file is of other images.
        """
        if self._file is not None:
            seen = {origin: checksum.compute() for origin, checksum in self._checksums.items()}
            if self._stored is None:
                self._file.save(self.metrics, seen, write=write)
            else:
                self._file.check(self._stored, seen)
        self.finished = True

    def _take(self, origin: Literal["held_out", "train"], x: Tensor, y: Tensor) -> None:
        if self._file is not None:
            self._checksums[origin].update(x)
        if self._stored is not None:
            return
        origins: tuple[Origin, ...] = (origin, "real") if origin == self._reference else (origin,)
        seen = self._extractor(x, y)
        for metric in self.metrics:
            for each in origins:
                if each in metric.origins:
                    metric.update(seen, each)
