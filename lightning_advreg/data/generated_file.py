"""Generated images as a file that the DataModules take as extra training data."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lightning_advreg.files import writing


def write_generated(path: str | Path, images: Tensor, labels: Tensor | None) -> Path:
    """Write generated images as an ``.npz`` file, uncompressed, so that a DataModule can leave them on the disk.

    The arrays are ``image``, uint8 of shape ``(N, H, W, C)``, and ``label``, int64 of shape ``(N,)``: what
    ``extra_path`` and ``ArrayDataModule`` read.

    Args:
        path: The file; its folder is made if there is none.
        images: uint8 ``(N, C, H, W)``.
        labels: Integers ``(N,)``; None leaves ``label`` out, which training data need.

    Returns:
        The path, which ends in ``.npz``.

    Raises:
        TypeError: If images are not uint8.
        ValueError: If there is no image, or not one label for each.

    Example:
        >>> import tempfile
        >>> path = write_generated(
        ...     Path(tempfile.mkdtemp()) / "a.npz", torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.arange(3)
        ... )
        >>> {name: array.shape for name, array in np.load(path).items()}
        {'image': (3, 8, 8, 1), 'label': (3,)}
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}; convert them with to_bytes.")
    if images.dim() != 4 or len(images) == 0 or (labels is not None and labels.shape != images.shape[:1]):
        found = f"{tuple(images.shape)} and {None if labels is None else tuple(labels.shape)}"
        raise ValueError(f"images must be (N, C, H, W) with N at least 1, and labels (N,), got {found}.")
    path = Path(path)
    # numpy adds the ending to names that lack it, and nobody would find the file
    path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
    image = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    with writing(path) as draft:
        if labels is None:
            np.savez(draft, image=image)
        else:
            np.savez(draft, image=image, label=labels.to("cpu", torch.int64).numpy())
    return path
