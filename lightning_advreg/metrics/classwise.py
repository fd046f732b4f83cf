"""Accuracy of each class."""

import torch
from torch import Tensor

from lightning_advreg.metrics.base import CountingMetric
from lightning_advreg.metrics.inputs import check_mask


class ClasswiseAccuracy(CountingMetric):
    """For each class, the fraction of its images that are classified correctly.

    It counts outcomes rather than logits, and so serves clean predictions, predictions under attack, and images that
    withstood a whole suite of attacks alike: robust accuracy differs between classes far more than clean accuracy does
    (Xu et al. 2021, "To be robust or to be fair"). States are int64 sums over batches and processes.

    Args:
        num_classes: Number of classes ``K``, at least 1.

    Attributes:
        correct: Correct images of each class so far, int64 of shape ``(K,)``.
        total: Images of each class so far, int64 of shape ``(K,)``.

    Raises:
        ValueError: If ``num_classes`` is below 1.

    Example:
        >>> accuracy = ClasswiseAccuracy(num_classes=3)
        >>> accuracy.update(torch.tensor([True, False, True]), torch.tensor([0, 0, 1]))
        >>> accuracy.compute()
        tensor([0.5000, 1.0000,    nan])
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
        super().__init__((num_classes,), (num_classes,))
        self.num_classes = num_classes

    def update(self, correct: Tensor, y: Tensor, counted: Tensor | None = None) -> None:
        """Count a batch; waits for the device once, to check the labels.

        Args:
            correct: Which images are classified correctly, bool of shape ``(N,)``.
            y: Labels in ``[0, K)``, integers of shape ``(N,)``, also where an image is not counted.
            counted: Which images to count, bool of shape ``(N,)``; all by default.

        Raises:
            TypeError: If labels are not integers.
            ValueError: If shapes disagree, a mask is not bool, or labels are out of range.
        """
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise TypeError(f"labels must be integer class indices, got {y.dtype}; convert with `y.long()`.")
        if y.dim() != 1:
            raise ValueError(f"labels must have shape (N,), got {tuple(y.shape)}.")
        check_mask("correct", correct, len(y))
        counted = torch.ones_like(correct) if counted is None else counted
        check_mask("counted", counted, len(y))
        if len(y) == 0:
            return
        first, last = torch.stack(y.aminmax()).tolist()
        if first < 0 or last >= self.num_classes:
            raise ValueError(
                f"labels must be in [0, {self.num_classes}), got labels from {first} to {last}; renumber the labels "
                "from 0, or raise num_classes."
            )
        y, none = y.long(), torch.zeros_like(self.total)
        self._add(none.index_add(0, y, (correct & counted).long()), none.index_add(0, y, counted.long()))

    def compute(self) -> Tensor:
        """Give the accuracies in [0, 1], float32 of shape ``(K,)``; NaN for classes without images."""
        return self.correct.float() / self.total

    def intervals(self, confidence: float = 0.95) -> list[tuple[float, float] | None]:
        """Give the score interval of each class (Wilson 1927), over all processes, each of which must call this.

        Args:
            confidence: The chance that an interval covers its true accuracy, in (0, 1).

        Returns:
            Lower and upper bound of each class, in [0, 1]; None for classes without images.

        Raises:
            ValueError: If ``confidence`` is out of its range.
        """
        return self._intervals(confidence)
