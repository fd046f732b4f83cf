"""Accuracy under each of several attacks, and under the worst of them for every image."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_advreg.metrics.base import CountingMetric
from lightning_advreg.metrics.inputs import check_mask

WORST_CASE = "worst_case"
"""The key of the accuracy under all attacks together."""


class NamedAccuracies(CountingMetric):
    """Counts outcomes by name, and those that are right under all names; base of the metrics over several attacks.

    Args:
        names: Names of the outcomes, distinct.

    Attributes:
        names: The names, in order.
        correct: Correct images under each name, and under all of them at once, int64 of shape ``(len(names) + 1,)``.
        total: Images counted so far, int64.

    Raises:
        ValueError: If there is no name, one repeats, is empty or is ``worst_case``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if isinstance(names, str) or not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"names must be a sequence of at least one name, such as ['fgsm', 'pgd'], got {names!r}.")
        if len(set(names)) < len(names):
            raise ValueError(f"names must be distinct, got {list(names)}.")
        if WORST_CASE in names:
            raise ValueError(f"the name {WORST_CASE!r} is that of all attacks together; rename this one.")
        super().__init__((len(names) + 1,))
        self.names = tuple(names)

    def compute(self) -> dict[str, Tensor]:
        """Give accuracies in [0, 1] by name, and as ``worst_case``, float32 scalars; 0 if no image was counted."""
        return dict(zip((*self.names, WORST_CASE), self._fractions().unbind(), strict=True))

    def intervals(self, confidence: float = 0.95) -> dict[str, tuple[float, float] | None]:
        """Give the score interval of each accuracy (Wilson 1927), over all processes, each of which must call this.

        Args:
            confidence: The chance that an interval covers its true accuracy, in (0, 1).

        Returns:
            Lower and upper bound by name, in [0, 1]; None if no image was counted.

        Raises:
            ValueError: If ``confidence`` is out of its range.
        """
        return dict(zip((*self.names, WORST_CASE), self._intervals(confidence), strict=True))

    def _count(self, correct: Mapping[str, Tensor], counted: Tensor | None) -> None:
        if correct.keys() != set(self.names):
            missing = sorted(set(self.names) - correct.keys())
            unknown = sorted(correct.keys() - set(self.names))
            raise ValueError(
                f"correct must hold one mask for each of {list(self.names)}; missing: {missing}, unknown: {unknown}."
            )
        count = None
        for name in self.names:
            check_mask(f"correct[{name!r}]", correct[name], count)
            count = len(correct[name])
        outcomes = torch.stack([correct[name] for name in self.names])
        outcomes = torch.cat([outcomes, outcomes.all(0, keepdim=True)])
        if counted is None:
            self._add(outcomes.sum(1), outcomes.shape[1])
        else:
            check_mask("counted", counted, count)
            self._add((outcomes & counted).sum(1), counted.sum())


class WorstCaseAccuracy(NamedAccuracies):
    """Accuracy under each attack of an ensemble, and with the worst attack chosen for every image.

    The accuracy under the ensemble counts an image only if it withstood every attack (Croce & Hein 2020, section 5). It
    is at most the smallest accuracy under one of them. States are int64 sums over batches and processes, and an update
    does not wait for the device.

    Args:
        names: Names of the attacks, distinct; ``worst_case`` is taken.

    Attributes:
        names: The names, in order.
        correct: Correct images under each attack, and under all of them, int64 of shape ``(len(names) + 1,)``.
        total: Images counted so far, int64.

    Raises:
        ValueError: If there is no name, one repeats, is empty or is ``worst_case``.

    Example:
        >>> accuracy = WorstCaseAccuracy(["fgsm", "square"])
        >>> withstood = torch.tensor([True, True, False]), torch.tensor([True, False, True])
        >>> accuracy.update({"fgsm": withstood[0], "square": withstood[1]})
        >>> accuracy.compute()
        {'fgsm': tensor(0.6667), 'square': tensor(0.6667), 'worst_case': tensor(0.3333)}
    """

    def update(self, correct: Mapping[str, Tensor], counted: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            correct: Which images are classified correctly under each attack, bool of shape ``(N,)`` by name.
            counted: Which images to count, bool of shape ``(N,)``; all by default.

        Raises:
            ValueError: If names are missing or unknown, shapes disagree, or a mask is not bool.
        """
        self._count(correct, counted)
