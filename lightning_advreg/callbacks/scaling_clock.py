"""How long training takes, without the evaluation in between, and how much it does meanwhile."""

from dataclasses import dataclass
from typing import NamedTuple

import lightning.pytorch as pl
import torch

from lightning_advreg.attacks.passes import gradients_taken
from lightning_advreg.callbacks.convergence_cost import clock


class Speed(NamedTuple):
    """What all processes have done in an epoch.

    Attributes:
        images_per_second: Training images per second, over all processes.
        attack_passes_per_second: Gradients of images that attacks took per second, over all processes.
        lost: The share of the time that was lost in communication, on average over processes; NaN if not measured.
        least_lost: The same of the process that lost least, which waits for no other: what sending alone costs.
    """

    images_per_second: float
    attack_passes_per_second: float
    lost: float
    least_lost: float


@dataclass
class TrainingClock:
    """Counts seconds, images and passes of attacks while it runs.

    It waits for the device only when it starts and stops: twice an epoch, and twice for a validation inside one.
    ``ThroughputMonitor`` of Lightning waits after every batch.

    Attributes:
        seconds: How long it has run.
        images: How many images were noted.
        passes: How many gradients of images were taken while it ran.
    """

    seconds: float = 0.0
    images: int = 0
    passes: int = 0
    _since: tuple[float, int] | None = None

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._since is not None

    def start(self, module: pl.LightningModule) -> None:
        """Let it run, if it does not."""
        if self._since is None:
            self._since = (clock(module), gradients_taken())

    def stop(self, module: pl.LightningModule) -> None:
        """Stop it, if it runs."""
        if self._since is not None:
            since, passes = self._since
            self.seconds += clock(module) - since
            self.passes += gradients_taken() - passes
            self._since = None

    def speed(self, module: pl.LightningModule, lost: float | None) -> Speed | None:
        """Give what all processes have done together, by one exchange among them; None where nothing was done.

        Args:
            module: The module; every process must call this.
            lost: Seconds that this process has lost in communication, or None.
        """
        own = [float(self.images), float(self.passes), self.seconds, float("nan") if lost is None else lost]
        values = module.all_gather(torch.tensor(own, dtype=torch.float64, device=module.device))
        assert isinstance(values, torch.Tensor)
        images, passes, seconds, waits = values.view(-1, len(own)).cpu().unbind(1)
        longest = seconds.max().item()
        if longest == 0 or images.sum() == 0:
            return None
        shares = waits / seconds
        totals = images.sum().item() / longest, passes.sum().item() / longest
        return Speed(*totals, shares.mean().item(), shares.min().item())
