"""A limit on the time that measuring takes."""

from dataclasses import dataclass
from time import perf_counter

import lightning.pytorch as pl
import torch

FEWEST = 16
"""Images below which accuracies say nothing: of so many, a collapse still shows beyond 3 standard errors."""


@dataclass
class CostLimit:
    """Chooses on how many images to measure, so that measuring stays within a share of the training time.

    A look is taken only if its cost, foretold from the last look image by image, fits into what is left of the share
    so far. As nothing is known before the first one, as few as possible are looked at first, and more at once if they
    fit. The numbers to choose from are the most images and its halves down to 16, and a look grows only if it will pay
    in every epoch: so they stay the same from epoch to epoch, unless the time of an epoch changes. A debt, from a look
    that took longer than the one before, makes looks smaller but never rarer. Only where an epoch does not pay for the
    fewest are looks rarer than asked for.

    Args:
        samples: How many images to measure on, at most.
        share: The share of the training time that measuring may take; from 1 on there is no limit.
        images: On how many images the last look was; 0 before the first.
        seconds: How long it took.
        spent: Seconds that measuring has taken in all.
        trained: Seconds between looks in all.

    Example:
        >>> limit = CostLimit(samples=256, share=0.05)
        >>> limit.affordable(trained=10.0)
        16
        >>> limit.book(seconds=0.05, images=16)
        >>> limit.affordable(trained=10.0)
        128
    """

    samples: int
    share: float
    images: int = 0
    seconds: float = 0.0
    spent: float = 0.0
    trained: float = 0.0

    def affordable(self, trained: float) -> int:
        """Give on how many images to look, after ``trained`` seconds since the last look; 0 for not now."""
        sizes = self._sizes()
        if self.share >= 1:
            return sizes[0]
        if self.images == 0:
            return sizes[-1]
        now = self.share * trained
        left = self.share * (self.trained + trained) - self.spent
        for images in sizes:
            cost = self._cost(images)
            if cost <= left and (images <= self.images or cost <= now):
                return images
        return sizes[-1] if self._cost(sizes[-1]) <= now else 0

    def book(self, *, seconds: float, images: int) -> None:
        """Count a look, which tells what the next one will cost."""
        self.images, self.seconds = images, seconds
        self.spent += seconds

    def _cost(self, images: int) -> float:
        return self.seconds * images / self.images

    def _sizes(self) -> list[int]:
        sizes = [self.samples]
        while sizes[-1] // 2 >= FEWEST:
            sizes.append(sizes[-1] // 2)
        return sizes


def clock(pl_module: pl.LightningModule) -> float:
    """Give the time in seconds, after all that is waiting on the module's device."""
    # what training has left on the device's queue is not the monitor's time
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return perf_counter()
