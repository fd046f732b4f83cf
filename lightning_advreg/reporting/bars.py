"""Accuracy of each class."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_advreg.reporting.style import DPI, GREY, INK, LONGEST_LABEL, PALETTE, check_interval, dress, shortened

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HATCHES = ("", "///", "...")
_LONGEST_NAME = 18
# more dotted lines than these nobody tells apart
_MOST_MEANS = 3
# in inches; beside the axes stand their ticks and label
_NARROWEST, _WIDEST, _MARGIN = 5.2, 12.0, 0.8
# sizes of text in points, and how wide a letter is on average, as a part of that
_NORMAL, _SMALL, _LETTER = 9.0, 6.5, 0.58


def per_class_figure(
    series: Mapping[str, Sequence[tuple[float, tuple[float, float]]]],
    class_names: Sequence[str] | None = None,
) -> "Figure":
    """Draw the accuracy of each class as bars, side by side for clean images and each attack.

    Whiskers show the 95 % interval. The legend gives the mean over the classes that have images, which a dotted line
    marks where there are at most three series. A class without images leaves a gap.

    Args:
        series: For each name in the legend, the accuracy of each class in [0, 1] with its interval ``(low, high)``. The
            accuracy of a class without images is NaN, with any interval.
        class_names: A name for each class; numbers are shown without, and where there is no room for names.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no series or no class, lengths differ, names are missing, or an accuracy lies outside
            [0, 1] or its interval.

    Example:
        >>> clean, robust = [(0.9, (0.88, 0.92)), (0.8, (0.77, 0.83))], [(0.6, (0.57, 0.63)), (0.4, (0.37, 0.43))]
        >>> figure = per_class_figure({"clean": clean, "PGD-20": robust}, ["cat", "dog"])
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['clean (mean 85.0 %)', 'PGD-20 (mean 50.0 %)', '95 % interval']
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    classes = _check_series(series, class_names)
    width = min(max(_NARROWEST, 1.5 + 0.24 * classes * (1 + len(series))), _WIDEST)
    slot = 72 * (width - _MARGIN) / classes
    bar = min(0.8 / len(series), 48 / slot)
    offsets = [(index - (len(series) - 1) / 2) * bar for index in range(len(series))]
    figure = Figure(figsize=(width, 3.8), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    handles: list[Artist] = []
    for index, (name, rates) in enumerate(series.items()):
        colour, hatch = PALETTE[index % len(PALETTE)], _HATCHES[index // len(PALETTE) % len(_HATCHES)]
        known = [(place + offsets[index], *rate) for place, rate in enumerate(rates) if not math.isnan(rate[0])]
        places, heights = [place for place, _, _ in known], [100 * accuracy for _, accuracy, _ in known]
        lows, highs = ([100 * interval[end] for _, _, interval in known] for end in (0, 1))
        label = shortened(name, LONGEST_LABEL - 15)
        if heights:
            mean = sum(heights) / len(heights)
            label += f" (mean {mean:.1f} %)"
            if len(series) <= _MOST_MEANS:
                axes.axhline(mean, color=colour, ls=":", lw=1.3, zorder=1.5)
        axes.bar(places, heights, 0.92 * bar, color=colour, hatch=hatch, edgecolor="white", lw=0, zorder=2)
        axes.vlines(places, lows, highs, color=INK, lw=min(1.1, 0.3 * bar * slot), zorder=3)
        handles.append(Patch(facecolor=colour, hatch=hatch, edgecolor="white", lw=0, label=label))
    handles.append(Line2D([], [], color=INK, marker="|", ms=9, ls="", label="95 % interval"))
    unmarked = _mark_gaps(axes, series.values(), offsets, slot, bar * slot)
    if unmarked:
        handles.append(Line2D([], [], ls="", label=f"no images of {unmarked} of {classes} classes"))
    axes.set_xlim(-0.5, classes - 0.5)
    axes.grid(axis="y", color="#DDDDDD", lw=0.7)
    axes.set_axisbelow(True)
    dress(axes, "Accuracy of each class", handles)
    _name_classes(axes, classes, class_names, slot)
    return figure


def _mark_gaps(
    axes: "Axes",
    series: Iterable[Sequence[tuple[float, tuple[float, float]]]],
    offsets: Sequence[float],
    slot: float,
    bar: float,
) -> int:
    """Write into the gaps of classes without images why they are there; count the classes with no room for it."""
    unmarked = 0
    for label, rates in enumerate(zip(*series, strict=True)):
        gaps = [offset for offset, (accuracy, _) in zip(offsets, rates, strict=True) if math.isnan(accuracy)]
        room = bar
        if len(gaps) == len(offsets):
            gaps, room = [0.0], slot
        if gaps and room < _SMALL:
            unmarked += 1
            continue
        for gap in gaps:
            axes.annotate(
                "no images", (label + gap, 0), (0, 4), textcoords="offset points", rotation=90, ha="center",
                va="bottom", size=_SMALL, color=GREY,
            )  # fmt: skip
    return unmarked


def _name_classes(axes: "Axes", classes: int, class_names: Sequence[str] | None, slot: float) -> None:
    """Put names below the bars: level, slanted or upright, whichever has room first; else numbers, in round steps."""
    names = [shortened(name, _LONGEST_NAME) for name in class_names or map(str, range(classes))][:classes]
    longest = max(map(len, names)) * _LETTER
    axes.tick_params(axis="x", length=0)
    if (longest + 0.8) * _NORMAL <= slot:
        axes.set_xticks(range(classes), names, size=_NORMAL)
    elif class_names and slot >= 1.5 * _NORMAL:
        axes.set_xticks(range(classes), names, size=_NORMAL, rotation=40, ha="right", rotation_mode="anchor")
    elif class_names and slot >= 1.1 * _SMALL:
        axes.set_xticks(range(classes), names, size=_SMALL, rotation=90)
    else:
        step = next(
            step for power in range(9) for step in (10**power, 2 * 10**power, 5 * 10**power) if classes <= 12 * step
        )
        axes.set_xticks(range(0, classes, step))
        axes.tick_params(axis="x", length=3)
        class_names = None
    if not class_names:
        axes.set_xlabel("class", color=INK)


def _check_series(
    series: Mapping[str, Sequence[tuple[float, tuple[float, float]]]], class_names: Sequence[str] | None
) -> int:
    """Check accuracies, intervals and names; give the number of classes."""
    lengths = {name: len(rates) for name, rates in series.items()}
    if not any(lengths.values()):
        raise ValueError("series must have at least one series with at least one class.")
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} of {name!r}" for name, length in lengths.items())
        raise ValueError(
            f"series must all have one accuracy per class, got {found}; give NaN where there are no images."
        )
    (classes,) = set(lengths.values())
    if class_names is not None and len(class_names) < classes:
        raise ValueError(
            f"class_names has {len(class_names)} names, but there are {classes} classes; give one name per class."
        )
    for name, rates in series.items():
        for label, (accuracy, interval) in enumerate(rates):
            if math.isnan(accuracy):
                continue
            where = f"class {label} of {name!r}"
            if not 0 <= accuracy <= 1:
                raise ValueError(f"accuracies must be fractions in [0, 1], got {accuracy} for {where}; divide by 100.")
            check_interval(interval, accuracy, where)
    return classes
