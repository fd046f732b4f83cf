"""Values of many variants, one row each, so that long names stay readable: main effects, generalisation gap."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_advreg.reporting.style import DPI, GREY, INK, PALETTE, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST_NAME = 56
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# inches
_ROW, _PANEL, _COLUMN, _BAR, _LETTER = 0.3, 0.55, 3.0, 4.2, 0.075


def main_effects_figure(effects: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> "Figure":
    """Draw what each level of each factor does to accuracy, averaged over everything else that varies.

    A row of panels a factor, a column of them a metric, and in each panel a row a level: a dot at the mean over all
    runs with this level, its 95 % interval (Student's t) if there are two or more, and a dotted line at the mean of
    all.

    Args:
        effects: For each factor, for each of its levels, for each metric, the accuracy of each run, in [0, 1].

    Returns:
        The figure.

    Raises:
        ValueError: If there is no factor or a factor has no level, or an accuracy lies outside [0, 1].

    Example:
        >>> runs = {"batch": {"clean": [0.97, 0.98]}, "none": {"clean": [0.96, 0.95]}}
        >>> main_effects_figure({"norm": runs}).axes[0].get_title(loc="left")
        'norm'
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    sizes = [len(levels) for levels in effects.values()]
    if not sizes or 0 in sizes:
        raise ValueError("effects must have at least one factor, and each factor at least one level.")
    for measurements in effects.values():
        for level, measured in measurements.items():
            for metric, values in measured.items():
                _check(values, f"{metric} of {level}")
    metrics = list(dict.fromkeys(metric for each in effects.values() for one in each.values() for metric in one))
    rows = sum(_ROW * size + _PANEL for size in sizes)
    levels = [level for each in effects.values() for level in each]
    figure = Figure(figsize=(_beside(levels) + _COLUMN * len(metrics), rows + 0.75), dpi=DPI, layout="constrained")
    _leave_margin(figure)
    ratios = [_ROW * size + 0.2 for size in sizes]
    panels = figure.subplots(
        len(sizes), len(metrics), squeeze=False, sharex="col", sharey="row", gridspec_kw={"height_ratios": ratios}
    )
    for line, (factor, measurements) in zip(panels, effects.items(), strict=True):
        for index, (axes, metric) in enumerate(zip(line, metrics, strict=True)):
            _draw(axes, list(measurements), [each.get(metric, ()) for each in measurements.values()], index)
        line[0].set_title(factor, loc="left", fontsize=10, color=INK)
    for axes, metric in zip(panels[-1], metrics, strict=True):
        axes.set_xlabel(f"{metric} (%)", color=INK)
    handles = [
        Line2D([], [], color=GREY, marker="o", lw=1.4, label="mean and 95 % interval of runs with this level"),
        Line2D([], [], ls=":", color=GREY, label="mean of all"),
    ]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=2 if len(metrics) > 1 else 1, fontsize=9, frameon=False,
        labelcolor=INK, title="Main effects", title_fontproperties={"size": 11}, alignment="left",
    )  # fmt: skip
    return figure


def generalisation_gap_figure(gaps: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> "Figure":
    """Draw training and test accuracy of each variant, and the gap between them.

    A line joins the two means; the gap in percentage points, with its standard deviation over seeds, stands beside it.

    Args:
        gaps: For each variant the training accuracies and the test accuracies of its runs, in [0, 1], in one order.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no variant or no run, numbers of runs differ, or an accuracy lies outside [0, 1].

    Example:
        >>> figure = generalisation_gap_figure({"plain": ([1.0, 1.0], [0.95, 0.96])})
        >>> figure.axes[0].texts[0].get_text()
        '4.5 ± 0.7'
    """
    from matplotlib.figure import Figure

    if not gaps:
        raise ValueError("gaps must have at least one variant.")
    for name, (train, test) in gaps.items():
        _check(train, f"training of {name}")
        _check(test, f"test of {name}")
        if len(train) != len(test) or not train:
            raise ValueError(f"{name!r} needs one training and one test accuracy a run, got {len(train)}, {len(test)}.")
    figure = Figure(figsize=(_beside(list(gaps)) + _BAR, _ROW * len(gaps) + 1.3), dpi=DPI, layout="constrained")
    _leave_margin(figure)
    axes = figure.subplots()
    for place, (train, test) in enumerate(gaps.values()):
        means = [100 * statistics.fmean(values) for values in (train, test)]
        axes.plot(means, [place, place], color="#BBBBBB", lw=2.5, zorder=1)
        differences = [100 * (a - b) for a, b in zip(train, test, strict=True)]
        spread = f" ± {statistics.stdev(differences):.1f}" if len(differences) > 1 else ""
        axes.annotate(
            f"{statistics.fmean(differences):.1f}{spread}", (1, place), (6, 0), ("axes fraction", "data"),
            "offset points", va="center", size=8.5, color=INK, annotation_clip=False,
        )  # fmt: skip
        for index, mean in enumerate(means):
            axes.plot(mean, place, _marker(index), color=_colour(index), ms=6, zorder=2 + index)
    _dress(axes, list(gaps))
    handles = [
        axes.plot([], [], _marker(index), color=_colour(index), label=label)[0]
        for index, label in enumerate(("training set", "test set"))
    ]
    axes.set_xlabel("accuracy (%)", color=INK)
    figure.legend(
        handles=handles, loc="outside upper left", ncols=2, fontsize=9, frameon=False, labelcolor=INK,
        title="Generalisation gap (right: training minus test, percentage points)", title_fontproperties={"size": 11},
        alignment="left",
    )  # fmt: skip
    return figure


def _draw(axes: "Axes", names: Sequence[str], rows: Sequence[Sequence[float]], index: int) -> None:
    known = [(place, [100 * value for value in values]) for place, values in enumerate(rows) if values]
    if known:
        overall = statistics.fmean(value for _, values in known for value in values)
        axes.axvline(overall, color=_colour(index), ls=":", lw=1, zorder=1)
    for place, values in known:
        axes.errorbar(
            statistics.fmean(values), place, xerr=_interval(values), fmt=_marker(index), color=_colour(index),
            ms=5.5, lw=1.4, capsize=2.5, zorder=3,
        )  # fmt: skip
    _dress(axes, names)


def _dress(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [shortened(name, _LONGEST_NAME) for name in names])
    # the first on top
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color="#DDDDDD", lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(color="#999999", labelcolor=INK, labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#999999")


def _beside(names: Sequence[str]) -> float:
    """Give the inches that names take beside the axes, so that these are always as wide."""
    return max(2.2, 0.6 + _LETTER * min(_LONGEST_NAME, max(map(len, names))))


def _leave_margin(figure: Any) -> None:  # noqa: ANN401 layout engines differ in their arguments
    figure.get_layout_engine().set(w_pad=0.08)


def _interval(values: Sequence[float]) -> list[list[float]] | None:
    """Give how far the 95 % interval reaches to both sides, in percentage points and within [0, 100]."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    mean = statistics.fmean(values)
    half = float(stdtrit(len(values) - 1, 0.975)) * statistics.stdev(values) / math.sqrt(len(values))
    return [[min(half, mean)], [min(half, 100 - mean)]]


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def _check(values: Sequence[float], what: str) -> None:
    if not all(0 <= value <= 1 for value in values):
        raise ValueError(f"accuracies must be fractions in [0, 1], got {list(values)} for {what}; divide by 100.")
