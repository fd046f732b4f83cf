"""The fraction of images whose largest logit is that of the label."""

import torch
from torch import Tensor
from torchmetrics import Metric


class Accuracy(Metric):
    """Top-1 accuracy that counts images, so that batches and processes may be of unequal size.

    Both states are int64 sums: the result does not depend on how images are spread over batches and processes. They are
    no part of a state dict. An update does not wait for the device.

    Attributes:
        correct: Number of images classified correctly so far, int64.
        total: Number of images counted so far, int64.

    Example:
        >>> accuracy = Accuracy()
        >>> logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
        >>> accuracy.update(logits, torch.tensor([0, 1, 1]))
        >>> accuracy.update(logits, torch.tensor([0, 0, 0]), counted=torch.tensor([True, False, False]))
        >>> accuracy.compute()
        tensor(0.7500)
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    correct: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, y: Tensor, counted: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            logits: Floating point, of shape ``(N, K)``.
            y: Labels, integers of shape ``(N,)``.
            counted: Which images to count, bool of shape ``(N,)``; all by default.

        Raises:
            ValueError: If shapes disagree, or ``counted`` is not a bool mask. Broadcasting would hide either.
        """
        if logits.dim() != 2 or y.shape != logits.shape[:1]:
            raise ValueError(
                f"logits and labels must have shapes (N, K) and (N,), got {tuple(logits.shape)} and {tuple(y.shape)}."
            )
        hits = logits.argmax(1) == y
        if counted is None:
            # not in place: states may be inference tensors, which must not change outside inference mode
            self.total = self.total + len(y)
        else:
            if counted.dtype != torch.bool or counted.shape != y.shape:
                raise ValueError(
                    f"counted must be a bool mask of shape {tuple(y.shape)}, got {counted.dtype} of shape "
                    f"{tuple(counted.shape)}."
                )
            hits = hits & counted
            self.total = self.total + counted.sum()
        self.correct = self.correct + hits.sum()

    def compute(self) -> Tensor:
        """Give the accuracy in [0, 1], a float32 scalar; 0 if no image was counted."""
        return self.correct.float() / self.total.clamp(min=1)
