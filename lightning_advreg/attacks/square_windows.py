"""Windows in a batch of images, one per image, and the part of a random search that all norms share."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_advreg.attacks.survivors import keep_rows
from lightning_advreg.attacks.threat import Ball


class Grid:
    """Images seen as ``channels`` planes of ``height`` by ``width`` pixels.

    Args:
        shape: The shape of one image: ``(C, H, W)``; ``(d,)`` and ``(C, d)`` count as one row of pixels, and of more
            than three dimensions those between the first and the last are put below each other.
    """

    def __init__(self, shape: torch.Size) -> None:
        self.channels = shape[0] if len(shape) > 1 else 1
        self.width = shape[-1]
        self.height = shape.numel() // (self.channels * self.width)

    def window(self, share: float, smallest: int = 1) -> tuple[int, int]:
        """Give height and width of a window that covers this share of the pixels.

        It is square, ``h = w = round(sqrt(share H W))``, unless the image is too narrow: then it is as wide as the
        image, and as long as its area asks for.

        Args:
            share: Of the pixels of a plane, in (0, 1].
            smallest: The least side, where the image has room for it.
        """
        area = share * self.height * self.width
        side = max(round(area**0.5), smallest)
        height = side if side <= self.width else max(round(area / self.width), smallest)
        width = side if side <= self.height else max(round(area / self.height), smallest)
        return min(height, self.height), min(width, self.width)

    def offsets(self, height: int, width: int, device: torch.device) -> Tensor:
        """Give the places of a window's pixels in a flattened image, with the window at the top left, ``(C h w,)``."""
        planes, rows, columns = (torch.arange(n, device=device) for n in (self.channels, height, width))
        places = (planes.view(-1, 1, 1) * self.height + rows.view(-1, 1)) * self.width + columns
        return places.flatten()

    def corners(self, count: int, height: int, width: int, device: torch.device) -> Tensor:
        """Draw where windows have their top left pixel, one for each of ``count`` images, of shape ``(count, 1)``."""
        column = torch.randint(self.width - width + 1, (count, 1), device=device)
        if self.height == height:
            return column
        return column + self.width * torch.randint(self.height - height + 1, (count, 1), device=device)


class SquareSearch(ABC):
    """A batch of images that a random search changes window by window, in place.

    Args:
        feasible: The set to stay in.

    Attributes:
        x_adv: The images to ask the network about: the proposals after :meth:`propose`, the best ones after
            :meth:`keep`. The same tensor is written to again and again.
    """

    smallest = 1

    def __init__(self, feasible: Ball) -> None:
        self.feasible = feasible
        self.grid = Grid(feasible.x.shape[1:])
        self.x_adv = self._start().reshape(feasible.x.shape).clone(memory_format=torch.contiguous_format)
        self._size: tuple[int, int] | None = None
        self._offsets = feasible.x.new_empty(0, dtype=torch.int64)

    @abstractmethod
    def propose(self, share: float) -> None:
        """Change each image in a window of its own.

        Args:
            share: The share of the pixels that the window covers.
        """

    @abstractmethod
    def keep(self, better: Tensor) -> None:
        """Undo the proposals that are not among these, bool of shape ``(N,)``."""

    def select(self, rows: Tensor, feasible: Ball) -> None:
        """Go on with some of the images, by index; ``feasible`` is that of those alone."""
        self.x_adv, self.feasible = keep_rows(rows, self.x_adv), feasible

    @abstractmethod
    def _start(self) -> Tensor:
        """Draw where the search begins, ``(N, C, H, W)``."""

    def _resized(self, size: tuple[int, int]) -> None:
        """Prepare for windows of another size."""
        self._size, self._offsets = size, self.grid.offsets(*size, self.x_adv.device)

    def _windows(self, share: float) -> None:
        size = self.grid.window(share, self.smallest)
        if size != self._size:
            self._resized(size)

    def _places(self) -> Tensor:
        """Draw a window for each image: the places of its pixels, of shape ``(N, C h w)``."""
        assert self._size is not None
        return self.grid.corners(len(self.x_adv), *self._size, self.x_adv.device) + self._offsets

    def _planes(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), self.grid.channels, self.grid.height, self.grid.width)

    def _coins(self, *shape: int) -> Tensor:
        return torch.randint(2, shape, dtype=torch.bool, device=self.feasible.x.device)
