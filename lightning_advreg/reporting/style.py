"""The look that all figures share: colours that anyone can tell apart, short names, a legend that hides no data."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

DPI = 120
"""Dots per inch of every figure."""

# Okabe & Ito (2008): told apart with any colour vision. Their yellow is left out, too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, GREY = "#333333", "#767676"
LONGEST_LABEL = 50
"""Most characters that a label in a legend may have."""

# inches: around a figure, and of a row of its legend
_PAD, _ROW = 0.08, 0.19
# entries of a legend that are many, and their size in points
_MANY, _NORMAL, _SMALL = 12, 9.0, 7.5
_ROUNDING = 1e-6


def shortened(name: str, longest: int) -> str:
    """Cut a name that is too long, and mark the cut.

    Args:
        name: The name.
        longest: The most characters that fit, at least 1.

    Returns:
        At most ``longest`` characters.

    Example:
        >>> shortened("convertible", 5), shortened("truck", 5)
        ('conv…', 'truck')
    """
    return name if len(name) <= longest else name[: longest - 1].rstrip() + "…"


def dress(axes: "Axes", title: str, handles: Sequence["Artist"]) -> None:
    """Give a plot of percentages its vertical axis, and above it its title and legend.

    The legend takes as few rows as the width of the figure allows, and the figure grows by the further ones.

    Args:
        axes: The only axes of a figure with constrained layout, data already drawn.
        title: What stands above; nothing if empty.
        handles: What the legend shows, in order, labelled.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure: Any = axes.figure
    axes.set_ylim(0, 100)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("accuracy (%)", color=INK)
    axes.tick_params(color="#999999", labelcolor=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    figure.get_layout_engine().set(w_pad=_PAD, h_pad=_PAD / 2)
    renderer = FigureCanvasAgg(figure).get_renderer()
    room = figure.bbox.width - 4 * _PAD * figure.dpi
    size = _NORMAL if len(handles) <= _MANY else _SMALL
    for rows in range(1, len(handles) + 1):
        # a title of its own would have to be told how high the legend is
        legend = figure.legend(
            handles=handles, ncols=math.ceil(len(handles) / rows), loc="outside upper left", alignment="left",
            title=title or None, title_fontproperties={"size": 11}, fontsize=size, labelcolor=INK, frameon=False,
            borderpad=0.1, borderaxespad=0.7, columnspacing=1.5, handletextpad=0.6,
        )  # fmt: skip
        legend.get_title().set_color(INK)
        if legend.get_window_extent(renderer).width <= room or rows == len(handles):
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + _ROW * size / _NORMAL * (rows - 1))


def check_interval(interval: tuple[float, float], accuracy: float, where: str) -> None:
    """Check that an interval holds its accuracy, up to rounding.

    Args:
        interval: Its lower and its upper end.
        accuracy: What was measured.
        where: Whose interval it is, for the message.

    Raises:
        ValueError: If it does not, or reaches out of [0, 1].
    """
    low, high = interval
    if not (-_ROUNDING <= low <= accuracy + _ROUNDING and accuracy - _ROUNDING <= high <= 1 + _ROUNDING):
        raise ValueError(
            f"an interval must be (low, high) as fractions in [0, 1] around its accuracy, got ({low:g}, {high:g}) "
            f"around {accuracy:g} for {where}; give what wilson_interval returns."
        )
