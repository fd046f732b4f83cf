"""Whether one method beats another, where both were run with the same seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """The difference of two methods over pairs of runs.

    Args:
        pairs: The number of pairs.
        mean: The mean difference.
        sd: The standard deviation of the differences, with ``pairs - 1`` degrees of freedom; NaN for a single pair.
        p: The two-sided p-value of the paired t-test; NaN where there is nothing to test.
    """

    pairs: int
    mean: float
    sd: float
    p: float


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> PairedDifference:
    r"""Compare two methods with a paired t-test (Student 1908).

    With differences ``d`` of ``n`` pairs, ``t = mean(d) sqrt(n) / sd(d)``, which has Student's distribution with
    ``n - 1`` degrees of freedom if both methods are equally good and differences are normal. Differences that are all
    zero have ``p = 1``. Differences that are all equal otherwise have no spread to test against, so p is NaN:
    accuracies on few images are coarse, and three equal differences are no proof.

    Args:
        values: What a method reached, one value a pair.
        baseline: What the baseline reached in the same pairs, in the same order.

    Returns:
        Difference, spread and p-value.

    Raises:
        ValueError: If there is no pair, or lengths differ.

    Example:
        >>> compared = paired_difference([0.9, 0.8, 0.9], [0.7, 0.7, 0.8])
        >>> round(compared.mean, 4), round(compared.p, 4)
        (0.1333, 0.0572)
    """
    if len(values) != len(baseline) or not values:
        raise ValueError(f"values and baseline must be pairs, at least one, got {len(values)} and {len(baseline)}.")
    differences = [value - base for value, base in zip(values, baseline, strict=True)]
    pairs = len(differences)
    mean = math.fsum(differences) / pairs
    if pairs == 1:
        return PairedDifference(pairs=1, mean=mean, sd=math.nan, p=math.nan)
    sd = math.sqrt(math.fsum((difference - mean) ** 2 for difference in differences) / (pairs - 1))
    # what rounding leaves of equal differences is no spread
    if not sd > 1e-12 * max(1.0, *map(abs, values), *map(abs, baseline)):
        return PairedDifference(pairs=pairs, mean=mean, sd=0.0, p=math.nan if abs(mean) > 1e-12 else 1.0)
    t = abs(mean) * math.sqrt(pairs) / sd
    return PairedDifference(pairs=pairs, mean=mean, sd=sd, p=2 * float(stdtr(pairs - 1, -t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for many comparisons (Holm 1979).

    The chance of any false discovery among all comparisons stays at the level that corrected values are compared with:
    sorted in ascending order, the i-th of m becomes ``max over j <= i of min(1, (m - j + 1) p_j)``.

    Args:
        p_values: P-values in [0, 1]; NaN for a comparison that was not tested and does not count.

    Returns:
        Corrected p-values, in the same order.

    Raises:
        ValueError: If a value lies outside [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    if any(not (math.isnan(p) or 0 <= p <= 1) for p in p_values):
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)}.")
    order = sorted((index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda index: p_values[index])
    corrected = [math.nan] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
