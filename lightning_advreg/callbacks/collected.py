"""The images of a test, from all processes, for an evaluation at its end."""

import torch
from torch import Tensor

from lightning_advreg.attacks import Alone
from lightning_advreg.callbacks.class_tally import ClassTally
from lightning_advreg.callbacks.pixel_units import PixelUnits
from lightning_advreg.data.share import Share


class CollectedImages:
    """The images of one loader that count, on the CPU.

    Args:
        share: This process's part of the loader.
        units: What the images were normalised with; None keeps them as they come.

    Attributes:
        tally: Which classes the images have.

    Raises:
        ValueError: When images are added that are not in [0, 1] once their normalisation is undone.

    Example:
        >>> collected = CollectedImages(Share(limit=3))
        >>> for _ in range(2):
        ...     collected.add(torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
        >>> x, y = collected.gather(Alone())
        >>> x.shape, y
        (torch.Size([3, 1, 4, 4]), tensor([0, 1, 0]))
    """

    def __init__(self, share: Share, units: PixelUnits | None = None) -> None:
        self._share, self._units = share, units
        self.tally = ClassTally("RobustEvaluation")
        self._batches: list[tuple[Tensor, Tensor]] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Keep what counts of the next batch."""
        counted = self._share.take(len(x))
        self.tally.see(y, counted)
        # copies made here are no inference tensors, which autograd could not save
        with torch.inference_mode(False):
            images, labels = x[:counted].detach().cpu().clone(), y[:counted].detach().cpu().clone()
            if self._units is not None and self._units.normalised:
                images = self._units.clean(images)
                if counted and not self._batches:
                    self._units.check(images)
            self._batches.append((images, labels))

    def gather(self, ranks: Alone) -> tuple[Tensor, Tensor]:
        """Give the images and labels of all processes, in the order of the data; every process must call this."""
        mine = None
        if self._batches:
            mine = torch.cat([x for x, _ in self._batches]), torch.cat([y for _, y in self._batches])
        parts = [(rank, *part) for rank, part in enumerate(ranks.gather(mine)) if part is not None]
        if not parts:
            return torch.empty(0), torch.empty(0, dtype=torch.long)
        if ranks.size == 1:
            return parts[0][1:]
        # image i of a process is image i * size + rank of the data
        order = torch.cat([torch.arange(len(y)) * ranks.size + rank for rank, _, y in parts]).argsort()
        return torch.cat([x for _, x, _ in parts])[order], torch.cat([y for _, _, y in parts])[order]
