"""How the speed of training grows with the number of processes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lightning_advreg.reporting.style import DPI, GREY, INK, PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scaling_figure(speeds: Mapping[int, float], lost: Mapping[int, float] | None = None) -> "Figure":
    r"""Draw images per second against the number of processes, beside a straight line through the fewest of them.

    Each point is labelled with its efficiency, its speed over that of the line.

    Args:
        speeds: From the number of processes to images per second over all of them, positive.
        lost: From the number of processes to the share of the time lost in communication, in [0, 1], where it was
            measured.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no speed, or a number is out of its range.

    Example:
        >>> figure = scaling_figure({1: 100.0, 2: 180.0}, lost={2: 0.08})
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['100 %', '90 %\n8 % lost in communication']
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    lost = lost or {}
    if not speeds or min(speeds) < 1 or not all(speed > 0 for speed in speeds.values()):
        raise ValueError(f"speeds must have images per second above 0 for 1 or more processes, got {dict(speeds)}.")
    if not all(0 <= share <= 1 for share in lost.values()):
        raise ValueError(f"lost must be shares of the time in [0, 1], got {dict(lost)}.")
    processes = sorted(speeds)
    fewest = processes[0]
    ideal = [speeds[fewest] * count / fewest for count in processes]
    measured = [speeds[count] for count in processes]
    figure = Figure(figsize=(6.4, 4.2), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot(processes, ideal, "--", color=GREY, lw=1.2, label=f"as {fewest} alone, each")
    axes.plot(processes, measured, "o-", color=PALETTE[0], ms=6, lw=1.8, label="measured")
    for count, speed, best in zip(processes, measured, ideal, strict=True):
        text = f"{100 * speed / best:.0f} %"
        if count in lost:
            text += f"\n{100 * lost[count]:.0f} % lost in communication"
        axes.annotate(text, (count, speed), (6, -6), textcoords="offset points", va="top", size=8, color=INK)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(processes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.set_ylim(0, 1.1 * max(*ideal, *measured))
    # labels hang to the right of the last point
    axes.set_xlim(fewest * 0.9, processes[-1] * 1.6)
    axes.set_xlabel("processes", color=INK)
    axes.set_ylabel("training images per second", color=INK)
    axes.tick_params(color="#999999", labelcolor=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)
    return figure
