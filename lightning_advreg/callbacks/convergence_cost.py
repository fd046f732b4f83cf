"""A limit on the time that measuring takes."""

from dataclasses import dataclass
from time import perf_counter

import lightning.pytorch as pl
import torch

FEWEST = 64
"""Images below which accuracies say too little."""


@dataclass
class CostLimit:
    """Keeps the time that measuring takes below a share of the training time.

    Args:
        samples: How many images to measure on; halved down to 64 where that costs too much.
        every_n_epochs: How often to measure; doubled where 64 images cost too much.
        share: The share of the training time that measuring may take.
        spent: Seconds that measuring has taken in all.
        trained: Seconds between measurements in all.

    Example:
        >>> limit = CostLimit(samples=256, every_n_epochs=1, share=0.05)
        >>> limit.book(spent=1.0, trained=10.0), limit.samples
        (True, 128)
    """

    samples: int
    every_n_epochs: int
    share: float
    spent: float = 0.0
    trained: float = 0.0

    def book(self, *, spent: float, trained: float) -> bool:
        """Count a measurement of ``spent`` seconds after ``trained`` seconds; say whether later ones get cheaper."""
        self.spent += spent
        self.trained += trained
        if spent <= self.share * trained:
            return False
        if self.samples > FEWEST:
            self.samples = max(FEWEST, self.samples // 2)
        else:
            self.every_n_epochs *= 2
        return True


def clock(pl_module: pl.LightningModule) -> float:
    """Give the time in seconds, after all that is waiting on the module's device."""
    # what training has left on the device's queue is not the monitor's time
    if pl_module.device.type == "cuda":
        torch.cuda.synchronize(pl_module.device)
    return perf_counter()
