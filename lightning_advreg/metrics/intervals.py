"""The interval that belongs to a measured accuracy."""

import math
from statistics import NormalDist


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Give the score interval of a proportion (Wilson 1927).

    With ``p = correct / total`` and the normal quantile ``z`` the bounds are
    ``(p + z^2 / 2n ± z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)``. Unlike ``p ± z sqrt(p (1 - p) / n)``, they
    stay in [0, 1] and have a width at ``p = 0`` and ``p = 1``, as with an attack that always succeeds.

    Args:
        correct: Number of successes, in ``[0, total]``.
        total: Number of trials ``n``, at least 1.
        confidence: The chance that the interval covers the true proportion, in (0, 1).

    Returns:
        The lower and the upper bound, in [0, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> low, high = wilson_interval(5, 10)
        >>> round(low, 4), round(high, 4)
        (0.2366, 0.7634)
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"need 0 <= correct <= total and total >= 1, got correct={correct}, total={total}.")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95, got {confidence}.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, ratio = correct / total, z * z / total
    centre = (p + ratio / 2) / (1 + ratio)
    half = z * math.sqrt(p * (1 - p) / total + ratio / (4 * total)) / (1 + ratio)
    # exact at the ends, where rounding would leave a bound beside 0 or 1
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == total else centre + half)
