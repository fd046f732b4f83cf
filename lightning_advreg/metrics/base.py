"""What metrics that count images share."""

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_advreg.metrics.intervals import wilson_interval


class CountingMetric(Metric):
    """Two int64 sums: the result does not depend on how images are spread over batches and processes.

    Args:
        correct: The shape of the numbers of correct images.
        total: The shape of the numbers of images, broadcast against the other.

    Attributes:
        correct: Numbers of images classified correctly so far, int64.
        total: Numbers of images counted so far, int64.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    correct: Tensor
    total: Tensor

    def __init__(self, correct: tuple[int, ...] = (), total: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.add_state("correct", torch.zeros(correct, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(total, dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, correct: Tensor, total: Tensor | int) -> None:
        # not in place: states may be inference tensors, which must not change outside inference mode
        self.correct = self.correct + correct
        self.total = self.total + total

    def _fractions(self) -> Tensor:
        """Give fractions in [0, 1], float32; 0 where nothing was counted."""
        return self.correct.float() / self.total.clamp(min=1)

    def _intervals(self, confidence: float) -> list[tuple[float, float] | None]:
        """Give the score interval of each fraction over all processes; None where nothing was counted."""
        # the states are read inside and used outside: an error inside would leave the metric synchronised
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self.sync_on_compute):
            correct = self.correct.flatten().tolist()
            total = self.total.expand_as(self.correct).flatten().tolist()
        return [wilson_interval(c, n, confidence) if n else None for c, n in zip(correct, total, strict=True)]
