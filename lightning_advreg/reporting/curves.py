"""Accuracy against the budget of an attack."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_advreg.reporting.style import DPI, INK, LONGEST_LABEL, PALETTE, check_interval, dress, shortened

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

Interval = tuple[float, float]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.")
_NORM_LABELS = {"linf": r"$L_\infty$", "l2": "$L_2$", "l1": "$L_1$"}
# MNIST's 0.3 is no round number of 255ths, and nobody calls it 76.5/255
_MOST_255THS = 40


def accuracy_curve_figure(
    eps: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    chance: float | None = None,
    *,
    attack: str = "",
    norm: str = "linf",
    intervals: Mapping[str, Sequence[Interval]] | None = None,
) -> "Figure":
    """Draw accuracy against the budget of the attack, one line for each model or attack.

    Args:
        eps: Budgets in pixel units on [0, 1], in ascending order. Those of Linf are shown as multiples of 1/255 up to
            40/255, and as they are beyond.
        curves: For each name in the legend, the accuracies in [0, 1] at these budgets.
        chance: The accuracy of guessing, in [0, 1], drawn as a dotted line.
        attack: The attack's name, for the title.
        norm: The norm of the budget: ``linf``, ``l2`` or ``l1``.
        intervals: For all or some of the curves, the 95 % interval ``(low, high)`` of each accuracy, drawn as a band.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no curve, lengths differ, an accuracy lies outside [0, 1] or outside its interval, an
            interval belongs to no curve, budgets do not ascend from 0 or more, or the norm is unknown.

    Example:
        >>> figure = accuracy_curve_figure(
        ...     [0, 8 / 255],
        ...     {"PGD-AT": [0.84, 0.52]},
        ...     chance=0.1,
        ...     attack="PGD-20",
        ...     intervals={"PGD-AT": [(0.82, 0.86), (0.49, 0.55)]},
        ... )
        >>> figure.axes[0].get_ylabel()
        'accuracy (%)'
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    intervals = intervals or {}
    _check_curves(eps, curves, chance, norm)
    _check_intervals(curves, intervals)
    in_255ths = norm == "linf" and 255 * eps[-1] <= _MOST_255THS
    budgets = [255 * value if in_255ths else value for value in eps]
    figure = Figure(figsize=(5.6, 3.8), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    handles: list[Artist] = []
    for index, (name, values) in enumerate(curves.items()):
        colour, marker = PALETTE[index % len(PALETTE)], _MARKERS[index % len(_MARKERS)]
        line = _LINES[index // len(PALETTE) % len(_LINES)]
        percent = [100 * value for value in values]
        label = shortened(name, LONGEST_LABEL)
        handles += axes.plot(
            budgets, percent, line, color=colour, marker=marker, label=label, lw=1.8, ms=5, clip_on=False, zorder=3
        )
        if name in intervals:
            low, high = ([100 * end for end in ends] for ends in zip(*intervals[name], strict=True))
            axes.fill_between(budgets, low, high, color=colour, alpha=0.2, lw=0, zorder=2)
    if intervals:
        handles.append(Patch(color=INK, alpha=0.2, lw=0, label="95 % interval"))
    if chance is not None:
        label = f"chance ({100 * chance:.3g} %)"
        handles.append(axes.axhline(100 * chance, color=INK, ls=":", lw=1.2, label=label))
    if len(budgets) > 1:
        axes.set_xlim(budgets[0], budgets[-1])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 4 if in_255ths else 2.5, 5, 10]))
    unit = "1/255" if in_255ths else "pixels in [0, 1]"
    axes.set_xlabel(rf"{_NORM_LABELS[norm]} budget $\epsilon$ ({unit})", color=INK)
    axes.grid(color="#DDDDDD", lw=0.7)
    dress(axes, f"Accuracy under {attack}" if attack else "", handles)
    return figure


def _check_curves(eps: Sequence[float], curves: Mapping[str, Sequence[float]], chance: float | None, norm: str) -> None:
    if norm not in _NORM_LABELS:
        raise ValueError(f"norm must be one of {', '.join(_NORM_LABELS)}, got {norm!r}.")
    if not curves or not eps:
        raise ValueError("there must be at least one budget in eps and one curve in curves.")
    if not all(0 <= value < math.inf for value in eps) or sorted(set(eps)) != list(eps):
        raise ValueError(f"eps must ascend, from 0 or more and without repeats, got {list(eps)}; sort the budgets.")
    for name, values in {**curves, **({} if chance is None else {"chance": [chance] * len(eps)})}.items():
        if len(values) != len(eps):
            raise ValueError(f"curve {name!r} must have one accuracy per budget, {len(eps)}, got {len(values)}.")
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"accuracies must be fractions in [0, 1], got {list(values)} for {name!r}; divide by 100.")


def _check_intervals(curves: Mapping[str, Sequence[float]], intervals: Mapping[str, Sequence[Interval]]) -> None:
    for name, pairs in intervals.items():
        if name not in curves:
            raise ValueError(f"intervals has {name!r}, which is no curve; curves are {', '.join(map(repr, curves))}.")
        if len(pairs) != len(curves[name]):
            raise ValueError(
                f"intervals of {name!r} must have one (low, high) per budget, {len(curves[name])}, got {len(pairs)}."
            )
        for value, interval in zip(curves[name], pairs, strict=True):
            check_interval(interval, value, repr(name))
