"""Pictures as tensors and arrays: grids of images, and PNG files."""

from os import PathLike
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lightning_advreg.files import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Picture: TypeAlias = "Tensor | Figure"
"""What can be shown: an image of shape ``(1, H, W)`` or ``(3, H, W)`` in [0, 1], or a matplotlib figure."""


def image_grid(images: Tensor, columns: int, *, min_tile: int = 64) -> Tensor:
    """Lay images out in rows, left to right, on a white ground.

    Args:
        images: Floating point in [0, 1], of shape ``(N, C, H, W)``.
        columns: Images in a row, at least 1.
        min_tile: Images lower than this many pixels are enlarged by a whole factor, without blurring, up to it.

    Returns:
        One image of shape ``(C, H', W')``, float32, on the CPU, with 2 pixels around each tile if there are several.

    Raises:
        ValueError: If there is no image, their shape is not ``(N, C, H, W)`` with 1 or 3 channels, or ``columns`` < 1.

    Example:
        >>> import torch
        >>> image_grid(torch.rand(6, 1, 28, 28), columns=3).shape  # each is enlarged 3 times
        torch.Size([1, 174, 260])
    """
    # takes a second to import
    from torchvision.utils import make_grid

    if images.dim() != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise ValueError(f"images must have shape (N, 1, H, W) or (N, 3, H, W), N >= 1, got {tuple(images.shape)}.")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}.")
    factor = max(1, -(-min_tile // images.shape[2]))
    tiles = images.detach().float().cpu().repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    grid = make_grid(tiles, nrow=columns, padding=2, pad_value=1.0)
    # make_grid turns grey into colour
    return grid[: images.shape[1]]


def to_array(picture: Picture) -> NDArray[np.uint8]:
    """Render a picture.

    Args:
        picture: An image of shape ``(1, H, W)`` or ``(3, H, W)``, floating point in [0, 1], or a matplotlib figure.

    Returns:
        Colours as uint8 of shape ``(H, W, 3)``.

    Raises:
        TypeError: If an image is not floating point.
        ValueError: If an image has another shape, or values outside [0, 1].

    Example:
        >>> import torch
        >>> to_array(torch.ones(1, 2, 2)).shape
        (2, 2, 3)
    """
    if not isinstance(picture, Tensor):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(picture)
        canvas.draw()
        return np.array(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3]
    if not picture.is_floating_point():
        raise TypeError(f"an image must be floating point in [0, 1], got {picture.dtype}; divide by 255.")
    if picture.dim() != 3 or picture.shape[0] not in (1, 3):
        raise ValueError(f"an image must have shape (1, H, W) or (3, H, W), got {tuple(picture.shape)}.")
    image = picture.detach().float().cpu()
    low, high = image.min().item(), image.max().item()
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise ValueError(f"an image must lie in [0, 1], got values from {low:g} to {high:g}.")
    return (image.clamp(0, 1) * 255).round().byte().expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def save_image(picture: Picture, path: str | PathLike[str]) -> None:
    """Write a picture as a bitmap, such as PNG, and make its folder if there is none.

    Args:
        picture: An image of shape ``(1, H, W)`` or ``(3, H, W)``, floating point in [0, 1], or a matplotlib figure.
        path: The file; its ending names the format.
    """
    image = Image.fromarray(to_array(picture))
    with writing(path) as draft:
        image.save(draft)
