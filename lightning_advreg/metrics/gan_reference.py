"""What is known of the real images, kept in a file for the next run."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_advreg.files import writing
from lightning_advreg.metrics.gan_base import GenerationMetric
from lightning_advreg.networks.pixels import to_bytes

_KEY = "key"
_FORMAT = 1


class ImageChecksum(Metric):
    """A number that changes with any of many images, but not with their order: 64 bits, summed over processes.

    Images are rounded to 8 bits first. It finds other data by mistake, and is no protection against forgery.

    Example:
        >>> checksum = ImageChecksum()
        >>> checksum.update(torch.rand(3, 1, 4, 4))
        >>> checksum.compute()[0]
        3
    """

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("total", "images"):
            self.add_state(state, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, images: Tensor) -> None:
        """Add a batch ``(N, C, H, W)`` in [0, 1]; does not wait for the device."""
        pixels = to_bytes(images).flatten(1).long()
        place = torch.arange(pixels.shape[1], device=pixels.device) + 1
        # odd multipliers modulo 2^64; squares, so that pixels of different images do not merely add up
        mixed = (pixels * (place * 0x2545F4914F6CDD1D | 1)).sum(1)
        self.total = self.total + (mixed * mixed + mixed).sum()
        self.images = self.images + len(pixels)

    def compute(self) -> list[int]:
        """Give the number of images and their checksum, plain integers."""
        return [int(self.images), int(self.total)]


class ReferenceFile:
    """Statistics of real images under one extractor, in a ``.npz`` file.

    Inside is what they are of: the data, the split, the extractor with the hash of its weights, and the number and the
    checksum of the images. A file that is not of these is refused. Runs with other metrics add theirs to it.

    Args:
        folder: Where the file lies.
        data: The name of the data.
        split: Which part of them.
        extractor: The name of the extractor.

    Example:
        >>> import tempfile
        >>> from lightning_advreg.metrics import Features, FrechetDistance
        >>> distance = FrechetDistance()
        >>> distance.update(Features(torch.rand(4, 2)), "real")
        >>> file = ReferenceFile(tempfile.mkdtemp(), "Digits", "val", "pixels")
        >>> file.save([distance], {"held_out": [4, 77]})
        >>> file.load([FrechetDistance()])
        {'held_out': [4, 77]}
    """

    def __init__(self, folder: str | Path, data: str, split: str, extractor: str) -> None:
        self.path = Path(folder, f"{data}-{split}-{extractor}.npz").absolute()
        self._of = {"format": _FORMAT, "data": data, "split": split, "extractor": extractor}

    def load(self, metrics: Sequence[GenerationMetric], rank: int = 0, size: int = 1) -> dict[str, list[int]] | None:
        """Give metrics what is known of the real images.

        Args:
            metrics: The metrics, which are changed in place.
            rank: This process.
            size: The number of processes, among which the reference is shared out.

        Returns:
            Number and checksum of the images of each origin, or None, if there is no file or it knows less than the
            metrics need.

        Raises:
            ValueError: If the file is damaged, or of other data, another split or another extractor.
        """
        known = self._read()
        if known is None:
            return None
        arrays, stored = known
        wanted = [
            (metric, {state: f"{name}/{state}" for state in metric.reference()}) for name, metric in _named(metrics)
        ]
        if not all(array in arrays for _, states in wanted for array in states.values()):
            return None
        for metric, states in wanted:
            metric.load_reference_(
                {state: torch.from_numpy(arrays[array]) for state, array in states.items()}, rank, size
            )
        return stored

    def save(
        self, metrics: Sequence[GenerationMetric], seen: Mapping[str, Sequence[int]], *, write: bool = True
    ) -> None:
        """Write what metrics know of the real images; every process must call this.

        What the file knows already, of other metrics, stays in it.

        Args:
            metrics: The metrics.
            seen: Number and checksum of the images of each origin, as :class:`ImageChecksum` gives them.
            write: Whether this process is the one that writes.

        Raises:
            ValueError: If there is a file of other images, or one that :meth:`load` would refuse.
        """
        arrays, images = self._read() or ({}, {})
        self.check(images, {origin: each for origin, each in seen.items() if origin in images})
        images = {**images, **{origin: list(each) for origin, each in seen.items()}}
        for name, metric in _named(metrics):
            with metric.sync_context():
                for state, value in metric.reference().items():
                    arrays[f"{name}/{state}"] = value.cpu().numpy()
        arrays[_KEY] = np.array(json.dumps({**self._of, "images": images}))
        if write:
            with writing(self.path) as draft:
                np.savez(draft, **arrays)  # type: ignore[arg-type]

    def _read(self) -> tuple[dict[str, np.ndarray], dict[str, list[int]]] | None:
        """Give the arrays of the file, and what images they are of; None if there is no file."""
        if not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            key = json.loads(str(arrays.pop(_KEY)))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path} is no file of reference statistics; delete it. {error}") from error
        for name, value in self._of.items():
            if key.get(name) != value:
                raise ValueError(
                    f"{self.path} holds statistics of another {name}, {key.get(name)!r} instead of {value!r}; delete "
                    "it, or give another folder."
                )
        return arrays, dict(key["images"])

    def check(self, stored: Mapping[str, Sequence[int]], seen: Mapping[str, Sequence[int]]) -> None:
        """Check that a file is of the images that were seen.

        Args:
            stored: What :meth:`load` gave.
            seen: Number and checksum of the images of each origin in this run.

        Raises:
            ValueError: If it is of others.
        """
        for origin, (images, checksum) in seen.items():
            if list(stored.get(origin, ())) != [images, checksum]:
                raise ValueError(
                    f"{self.path} is of other {origin} images than the {images} of this run: their number or their "
                    "checksum differs; delete it, or give another folder for these data."
                )


def _named(metrics: Sequence[GenerationMetric]) -> list[tuple[str, GenerationMetric]]:
    # metrics of one class differ in what they do with the reference, not in the reference
    return [(type(metric).__name__, metric) for metric in metrics]
