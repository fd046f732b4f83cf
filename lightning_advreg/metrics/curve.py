"""Accuracy as a function of the budget."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lightning_advreg.metrics.base import CountingMetric
from lightning_advreg.values import Number, to_float

RADIUS_TOLERANCE = 1e-6
"""By how much, relative to a budget, a radius may exceed it and still count as found within it."""


class AccuracyCurve(CountingMetric):
    """The fraction of images that withstand each budget: accuracy over eps.

    The radius of an image is the smallest budget at which it was found misclassified: 0 where it is wrong without any
    attack, infinite where it withstood everything. The accuracy at eps is the fraction of images with a radius above
    eps, so a radius equal to eps has fallen, and the curve never rises. At eps 0 it is the clean accuracy. A curve
    that does not reach 0 at large budgets is a sign of gradient masking (Carlini et al. 2019, section 4).

    Budgets and radii often pass through float32, which moves them by up to 6e-8 of their size. So a radius counts as
    above eps only if it exceeds ``eps * (1 + 1e-6)``, compared in float64. States are int64 sums.

    Args:
        eps: The budgets, rising, each 0 or more, in pixel units on [0, 1]; ``8/255`` may be written as text.

    Attributes:
        eps: The budgets as floats.
        correct: Images that withstood each budget so far, int64 of shape ``(len(eps),)``.
        total: Images counted so far, int64.

    Raises:
        ValueError: If there is no budget, one is negative, or they do not rise.

    Example:
        >>> curve = AccuracyCurve([0, "4/255", "8/255"])
        >>> curve.update(torch.tensor([0.0, 4 / 255, 0.02, float("inf")]))
        >>> curve.compute()
        tensor([0.7500, 0.5000, 0.2500])
    """

    def __init__(self, eps: Sequence[Number]) -> None:
        budgets = tuple(to_float(value, f"eps[{i}]", minimum=0) for i, value in enumerate(eps))
        if not budgets:
            raise ValueError("eps must hold at least one budget, such as [0, '8/255'], got none.")
        if any(low >= high for low, high in pairwise(budgets)):
            raise ValueError(f"eps must rise from each budget to the next, got {list(eps)}; sort it and drop repeats.")
        super().__init__((len(budgets),))
        self.eps = budgets

    def update(self, radius: Tensor) -> None:
        """Count a batch; waits for the device once, to check the radii.

        Args:
            radius: The smallest budget at which each image was found misclassified, floating point of shape ``(N,)``,
                in pixel units; 0 for images that are wrong without an attack, infinite for those that withstood all.

        Raises:
            TypeError: If radii are not floating point.
            ValueError: If they are of another shape, NaN or negative.
        """
        if not radius.is_floating_point():
            raise TypeError(f"radius must be floating point, got {radius.dtype}; convert with `radius.float()`.")
        if radius.dim() != 1:
            raise ValueError(f"radius must have shape (N,), one per image, got {tuple(radius.shape)}.")
        if not bool((radius >= 0).all()):
            worst = radius[~(radius >= 0)][0].item()
            raise ValueError(
                f"radius must be 0 or more for every image, got {worst:g}; give 0 where the image is wrong without an "
                "attack and inf where it withstood everything."
            )
        # by Python numbers: a tensor of budgets would have to come from the host, which waits for the device
        withstood = torch.stack([(radius.double() > eps * (1 + RADIUS_TOLERANCE)).sum() for eps in self.eps])
        self._add(withstood, len(radius))

    def compute(self) -> Tensor:
        """Give the accuracy in [0, 1] at each budget, float32 of shape ``(len(eps),)``; 0 if nothing was counted."""
        return self._fractions()

    def intervals(self, confidence: float = 0.95) -> list[tuple[float, float] | None]:
        """Give the score interval at each budget (Wilson 1927), over all processes, each of which must call this.

        The intervals hold one budget at a time; all of them together hold with less confidence.

        Args:
            confidence: The chance that an interval covers its true accuracy, in (0, 1).

        Returns:
            Lower and upper bound at each budget, in [0, 1]; None if nothing was counted.

        Raises:
            ValueError: If ``confidence`` is out of its range.
        """
        return self._intervals(confidence)
