"""Variants against each other: clean against robust accuracy, learning curves, interaction of two factors."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_advreg.reporting.style import DPI, INK, LONGEST_LABEL, PALETTE, dress, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "h", "<", ">")
_LINES = ("-", "--", "-.", ":")
_LONGEST_LEVEL = 22
# the first fifth of a course, which climbs from chance
_BEGINNING = 5
_MOST_BANDS = 6


def tradeoff_figure(points: Mapping[str, Sequence[tuple[float, float]]], robust: str = "robust accuracy") -> "Figure":
    """Draw clean against robust accuracy, one point a variant, with standard deviations over seeds as error bars.

    Args:
        points: For each variant the ``(clean, robust)`` accuracy of each run, in [0, 1].
        robust: What stands at the vertical axis.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no variant, a variant has no run, or an accuracy lies outside [0, 1].

    Example:
        >>> figure = tradeoff_figure({"plain": [(0.98, 0.02), (0.97, 0.04)], "PGD-AT": [(0.95, 0.6)]})
        >>> figure.axes[0].get_xlabel()
        'clean accuracy (%)'
    """
    from matplotlib.figure import Figure

    _check({name: [value for pair in pairs for value in pair] for name, pairs in points.items()}, "points")
    figure = Figure(figsize=(6.4, 4.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    handles = []
    for index, (name, pairs) in enumerate(points.items()):
        clean, attacked = ([100 * value for value in values] for values in zip(*pairs, strict=True))
        marker, colour = _MARKERS[index % len(_MARKERS)], PALETTE[index % len(PALETTE)]
        axes.errorbar(
            statistics.fmean(clean), statistics.fmean(attacked), _spread(attacked), _spread(clean), fmt=marker,
            color=colour, ms=7, mec="white", mew=0.7, lw=1.2, capsize=2.5, zorder=3,
        )  # fmt: skip
        label = shortened(name, LONGEST_LABEL)
        handles += axes.plot([], [], marker, color=colour, ms=7, label=label)
    limits = axes.get_xlim(), axes.get_ylim()
    dress(axes, "Clean against robust accuracy (mean ± standard deviation over seeds)", handles)
    axes.set_xlabel("clean accuracy (%)", color=INK)
    axes.set_ylabel(f"{robust} (%)", color=INK)
    axes.set_yticks([])
    axes.yaxis.set_major_locator(_round_steps())
    axes.set(xlim=_within(limits[0]), ylim=_within(limits[1]))
    axes.grid(color="#DDDDDD", lw=0.7)
    return figure


def learning_curves_figure(
    curves: Mapping[str, Sequence[Mapping[int, float]]], what: str = "validation accuracy"
) -> "Figure":
    """Draw accuracy against epochs, one line a variant: the mean over seeds.

    Up to six lines have a band of ± one standard deviation; more would cover each other. The vertical axis shows what
    lines reach after the first fifth of their epochs, so that ends can be told apart.

    Args:
        curves: For each variant, for each run, from the epoch, counted from 1, to the accuracy in [0, 1].
        what: What stands at the vertical axis.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no variant, a variant has no value, or an accuracy lies outside [0, 1].

    Example:
        >>> figure = learning_curves_figure({"plain": [{1: 0.5, 2: 0.8}, {1: 0.6, 2: 0.9}]})
        >>> [float(value) for value in figure.axes[0].lines[0].get_ydata().round(1)]
        [55.0, 85.0]
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    _check({name: [value for run in runs for value in run.values()] for name, runs in curves.items()}, "curves")
    figure = Figure(figsize=(6.4, 4.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    handles = []
    banded, late = len(curves) <= _MOST_BANDS, list[float]()
    for index, (name, runs) in enumerate(curves.items()):
        epochs = sorted({epoch for run in runs for epoch in run})
        values = [[100 * run[epoch] for run in runs if epoch in run] for epoch in epochs]
        mean = np.array([statistics.fmean(each) for each in values])
        spread = np.array([_spread(each) or 0.0 for each in values]) * banded
        colour, line = PALETTE[index % len(PALETTE)], _LINES[index // len(PALETTE) % len(_LINES)]
        mark = "o" if len(epochs) == 1 else ""
        label = shortened(name, LONGEST_LABEL)
        handles += axes.plot(epochs, mean, line, marker=mark, color=colour, lw=1.7, label=label, zorder=3)
        if spread.any():
            axes.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.13, lw=0, zorder=2)
        beginning = len(epochs) // _BEGINNING
        late += [*(mean - spread)[beginning:], *(mean + spread)[beginning:]]
    dress(axes, f"Learning curves (mean {'± standard deviation ' if banded else ''}over seeds)", handles)
    axes.set_ylabel(f"{what} (%)", color=INK)
    axes.set_xlabel("epoch", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(_round_steps())
    axes.set_ylim(*_within((min(late), max(late))))
    axes.grid(color="#DDDDDD", lw=0.7)
    return figure


def interaction_figure(
    means: Mapping[str, Mapping[str, float]], row_factor: str, column_factor: str, metric: str
) -> "Figure":
    """Draw the accuracy of each combination of two factors as a heat map with its numbers.

    Args:
        means: For each level of one factor, for each level of the other, the mean accuracy in [0, 1]. A combination
            without a run is left out, and shown as a dash.
        row_factor: The name of the first.
        column_factor: The name of the second.
        metric: What was measured.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no accuracy, or one lies outside [0, 1].

    Example:
        >>> means = {"batch": {"0": 0.9, "0.3": 0.95}, "none": {"0": 0.8, "0.3": 0.7}}
        >>> [text.get_text() for text in interaction_figure(means, "norm", "dropout", "clean").axes[0].texts]
        ['90.0', '95.0', '80.0', '70.0']
    """
    import numpy as np
    from matplotlib.figure import Figure

    _check({"means": [value for row in means.values() for value in row.values()]}, "means")
    columns = list(dict.fromkeys(level for row in means.values() for level in row))
    values = np.array([[100 * row.get(level, np.nan) for level in columns] for row in means.values()])
    names = [shortened(name, _LONGEST_LEVEL) for name in columns]
    width = max(0.75, 0.085 * max(map(len, names)))
    size = (max(4.6, 2.6 + width * len(columns)), 1.8 + 0.42 * len(means))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    image = axes.imshow(values, cmap="cividis", vmin=low, vmax=max(high, low + 0.1), aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = np.isnan(value) or value < (low + high) / 2
        text = "-" if np.isnan(value) else f"{value:.1f}"
        colour = INK if np.isnan(value) else "white" if dark else "black"
        axes.text(column, row, text, ha="center", va="center", size=9, color=colour)
    axes.set_xticks(range(len(columns)), names, size=9, color=INK)
    axes.set_yticks(range(len(means)), [shortened(name, _LONGEST_LEVEL) for name in means], size=9, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(column_factor, color=INK)
    axes.set_ylabel(row_factor, color=INK)
    axes.set_title(f"{metric}: {row_factor} and {column_factor}", loc="left", fontsize=11, color=INK)
    figure.colorbar(image, ax=axes, label="accuracy (%)", pad=0.02).outline.set_visible(False)
    return figure


def _check(series: Mapping[str, Sequence[float]], argument: str) -> None:
    if not series or not all(series.values()):
        raise ValueError(f"{argument} must have at least one variant, and each variant at least one run.")
    for name, values in series.items():
        if not all(0 <= value <= 1 for value in values):
            raise ValueError(f"accuracies must be fractions in [0, 1], got {list(values)} for {name!r}; divide by 100.")


def _spread(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _within(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    pad = max(0.5, 0.03 * (high - low))
    return max(-1.0, low - pad), min(101.0, high + pad)


def _round_steps() -> Any:  # noqa: ANN401
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10])
