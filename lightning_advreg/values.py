"""Numbers as people write them: ``0.03``, ``"8/255"``, ``"1e-3"``."""

import math
from fractions import Fraction
from typing import TypeAlias

Number: TypeAlias = float | str
"""A finite number, or its text: a decimal (``"0.03"``) or a fraction (``"8/255"``)."""


def to_float(
    value: Number,
    name: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
) -> float:
    """Read a number as people write it in YAML, on the command line or in Python.

    Args:
        value: A finite number, a decimal such as ``"0.03"`` or a fraction such as ``"8/255"``.
        name: The argument's name, for the error message.
        minimum: The smallest value allowed.
        maximum: The largest value allowed.
        below: A value that the number must be less than.

    Returns:
        The number as a float.

    Raises:
        ValueError: If ``value`` cannot be read as a finite number, lies outside ``[minimum, maximum]``, or is not less
            than ``below``.

    Example:
        >>> to_float("8/255", "eps") == 8 / 255
        True
        >>> to_float("-1/2", "eps", minimum=0)
        Traceback (most recent call last):
        ...
        ValueError: eps must be at least 0, got '-1/2'.
    """
    number = _read(value)
    if number is None or not math.isfinite(number):
        raise ValueError(f"{name} must be a number such as 0.03 or a fraction such as 8/255, got {value!r}.")
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be at least {minimum:g}, got {value!r}.")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name} must be at most {maximum:g}, got {value!r}.")
    if below is not None and number >= below:
        raise ValueError(f"{name} must be less than {below:g}, got {value!r}.")
    return number


def _read(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        if isinstance(value, str) and "/" in value:
            numerator, denominator = value.split("/")
            return float(Fraction(numerator.strip()) / Fraction(denominator.strip()))
        return float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
