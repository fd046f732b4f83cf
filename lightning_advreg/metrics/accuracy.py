"""The fraction of images whose largest logit is that of the label."""

from torch import Tensor

from lightning_advreg.metrics.base import CountingMetric
from lightning_advreg.metrics.inputs import check_mask, hits


class Accuracy(CountingMetric):
    """Top-1 accuracy that counts images, so that batches and processes may be of unequal size.

    Both states are int64 sums: the result does not depend on how images are spread over batches and processes. They are
    no part of a state dict. An update does not wait for the device.

    Attributes:
        correct: Number of images classified correctly so far, int64.
        total: Number of images counted so far, int64.

    Example:
        >>> import torch
        >>> accuracy = Accuracy()
        >>> logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
        >>> accuracy.update(logits, torch.tensor([0, 1, 1]))
        >>> accuracy.update(logits, torch.tensor([0, 0, 0]), counted=torch.tensor([True, False, False]))
        >>> accuracy.compute()
        tensor(0.7500)
        >>> low, high = accuracy.interval()
        >>> round(low, 2), round(high, 2)
        (0.3, 0.95)
    """

    def __init__(self) -> None:
        super().__init__()

    def update(self, logits: Tensor, y: Tensor, counted: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            logits: Floating point, of shape ``(N, K)``.
            y: Labels, integers of shape ``(N,)``.
            counted: Which images to count, bool of shape ``(N,)``; all by default.

        Raises:
            ValueError: If shapes disagree, or ``counted`` is not a bool mask. Broadcasting would hide either.
        """
        right = hits(logits, y)
        if counted is None:
            self._add(right.sum(), len(y))
        else:
            check_mask("counted", counted, len(y))
            self._add((right & counted).sum(), counted.sum())

    def compute(self) -> Tensor:
        """Give the accuracy in [0, 1], a float32 scalar; 0 if no image was counted."""
        return self._fractions()

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Give the score interval of the accuracy (Wilson 1927), over all processes, each of which must call this.

        Args:
            confidence: The chance that the interval covers the true accuracy, in (0, 1).

        Returns:
            The lower and the upper bound, in [0, 1].

        Raises:
            ValueError: If no image was counted, or ``confidence`` is out of its range.
        """
        (interval,) = self._intervals(confidence)
        if interval is None:
            raise ValueError("an interval needs at least one counted image, got none; call update first.")
        return interval
