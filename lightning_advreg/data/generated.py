"""Generated images that join each training batch, from a ``.npz`` file."""

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_advreg.data.npz import array_names, stored_array
from lightning_advreg.data.pixels import to_unit_range
from lightning_advreg.values import Number, to_float

_KEYS = ("image", "label")


class GeneratedData:
    """Extra training images from a generative model, of which each batch holds a fixed share.

    Training on 0.7 generated and 0.3 real images is what made the best robust classifiers (Gowal et al. 2021, section
    5; Wang et al. 2023, section 4). The file is the one in which such images are published: ``image``, uint8 of shape
    ``(N, H, W, C)``, and ``label``, integers of shape ``(N,)``. Where ``image`` is stored uncompressed, as
    ``numpy.savez`` does, images stay on the disk, and a batch at a time is copied into memory, so that millions of them
    fit. Compressed ones are read into memory, once per process, and a warning says so.

    Args:
        path: The file.
        fraction: The share of generated images in each batch, between 0 and 1.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the arrays are missing or have another shape or type, or ``fraction`` is not between 0 and 1.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "generated.npz"
        >>> np.savez(path, image=np.zeros((5, 8, 8, 3), np.uint8), label=np.arange(5))
        >>> data = GeneratedData(path)
        >>> images, labels = data.fetch(torch.tensor([4, 1]))
        >>> images.shape, labels.tolist(), data.counts(128)
        (torch.Size([2, 3, 8, 8]), [4, 1], (38, 90))
    """

    def __init__(self, path: str | Path, fraction: Number = 0.7) -> None:
        self.path = str(Path(path).absolute())
        self.fraction = check_fraction(fraction)
        if not Path(self.path).is_file():
            raise FileNotFoundError(
                f"there is no file {self.path}; set extra_path to a .npz file with the arrays image and label."
            )
        found = array_names(self.path)
        if missing := [key for key in _KEYS if key not in found]:
            raise ValueError(
                f"{self.path} lacks the arrays {', '.join(missing)}; it has {', '.join(sorted(found)) or 'none'}, and "
                "extra_path needs image and label."
            )
        image, label = (stored_array(self.path, key) for key in _KEYS)
        if image.dtype != np.uint8 or len(image.shape) != 4:
            raise ValueError(
                f"image in {self.path} must be uint8 of shape (N, H, W, C), got {image.dtype} of shape {image.shape}; "
                "save pixels from 0 to 255, channels last."
            )
        if not np.issubdtype(label.dtype, np.integer) or label.shape != image.shape[:1] or label.shape[0] == 0:
            raise ValueError(
                f"label in {self.path} must be integers of shape ({image.shape[0]},), one per image and not none, got "
                f"{label.dtype} of shape {label.shape}."
            )
        if image.offset is None:
            rank_zero_warn(
                f"image in {self.path} is compressed, and takes {image.nbytes / 2**20:.0f} MiB of memory in every "
                "process; write the file with numpy.savez, not savez_compressed, to leave the images on the disk."
            )
        self._images = image.read()
        self.labels = torch.from_numpy(label.read().astype(np.int64))

    def __len__(self) -> int:
        """Give the number of generated images."""
        return len(self.labels)

    def __reduce__(self) -> tuple[type["GeneratedData"], tuple[str, float]]:
        """Open the file again in another process: pickling a mapped array would send all of it."""
        return type(self), (self.path, self.fraction)

    def check(self, image_shape: tuple[int, int, int], num_classes: int, batch_size: int) -> None:
        """Check that generated images fit to the real ones, and that batches have room for both.

        Args:
            image_shape: ``(C, H, W)`` of the real images.
            num_classes: The number of their classes.
            batch_size: Images per batch, of both kinds together.

        Raises:
            ValueError: If they do not.
        """
        self.counts(batch_size)
        channels, height, width = image_shape
        expected, shape = (height, width, channels), self._images.shape[1:]
        if shape != expected:
            raise ValueError(
                f"image in {self.path} has images of shape {shape}, expected {expected} (H, W, C), the shape of the "
                "real ones; generate or resize images to it."
            )
        low, high = (int(bound) for bound in self.labels.aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"label in {self.path} goes from {low} to {high}, but must lie in [0, {num_classes}), as the labels of "
                "the real images do."
            )

    def fetch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Copy some of the images.

        Args:
            rows: Which, int64 of shape ``(n,)`` on the CPU.

        Returns:
            Images, uint8 ``(n, C, H, W)``, and labels, int64 ``(n,)``, on the CPU.
        """
        images = torch.from_numpy(self._images[rows.numpy()])
        return images.permute(0, 3, 1, 2).contiguous(), self.labels[rows]

    def counts(self, batch_size: int) -> tuple[int, int]:
        """Give the numbers of real and of generated images in a full batch.

        Raises:
            ValueError: If one of them is 0.
        """
        extra = round(self.fraction * batch_size)
        if not 0 < extra < batch_size:
            raise ValueError(
                f"extra_fraction={self.fraction:g} of batch_size={batch_size} images is {extra}, and leaves "
                f"{batch_size - extra} real ones; both must be at least 1: use a larger batch_size."
            )
        return batch_size - extra, extra


def check_fraction(fraction: Number) -> float:
    """Give the share of generated images as a float.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    value = to_float(fraction, "extra_fraction")
    if not 0 < value < 1:
        raise ValueError(
            f"extra_fraction must be between 0 and 1, without them, got {fraction!r}; for real images alone leave out "
            "extra_path, for generated ones alone use ArrayDataModule."
        )
    return value


def joined(real: Tensor, extra: Tensor) -> Tensor:
    """Put real images ``(n, C, H, W)`` and generated ones ``(m, C, H, W)`` into one batch, real ones first."""
    if real.dtype != extra.dtype:
        real, extra = to_unit_range(real), to_unit_range(extra)
    return torch.cat([real, extra])
