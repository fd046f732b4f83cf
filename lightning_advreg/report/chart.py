"""Line charts as small SVG that takes its colours and fonts from the page, and can be searched and read aloud."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from lightning_advreg.report.files import Points

COLOURS = 8
"""How many colours the page has for runs: ``--c0`` to ``--c7``."""

_WIDTH, _HEIGHT = 460, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 28, 12, 42
_LABEL_HEIGHT = 12
_MOST_POINTS = 160


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a chart.

    Args:
        label: What a pointer on it shows.
        points: In ascending order; where a value is infinite or NaN, the line has a gap.
        colour: The number of its colour; those beyond the page's begin anew.
        dashed: Draw it dashed.
        mark: What stands at its end, such as the number of its run.
        band: The interval ``(low, high)`` of each point, shaded; empty for none.
    """

    label: str
    points: Points
    colour: int = 0
    dashed: bool = False
    mark: str = ""
    band: Sequence[tuple[float, float]] = ()


def line_chart(lines: Sequence[Line], *, title: str, x_label: str, percent: bool = False, markers: bool = False) -> str:
    """Draw a chart.

    Args:
        lines: What it shows.
        title: What it is, for those who cannot see it.
        x_label: What stands at the horizontal axis.
        percent: Values are fractions, shown as percent.
        markers: Put a dot at every point.

    Returns:
        An ``<svg>`` element; empty if no line has a finite point.

    Example:
        >>> drawn = line_chart([Line(label="val/acc", points=[(1, 0.5), (2, 0.8)])], title="Accuracy", x_label="epoch")
        >>> drawn.startswith("<svg"), drawn.count("<path"), "val/acc" in drawn
        (True, 1, True)
    """
    from matplotlib.ticker import MaxNLocator

    factor = 100 if percent else 1
    scaled = [[(x, factor * y) for x, y in _thinned(line.points)] for line in lines]
    bands = [[(factor * low, factor * high) for low, high in line.band] for line in lines]
    finite = [(x, y) for points in scaled for x, y in points if math.isfinite(y)]
    if not finite:
        return ""
    heights = [y for _, y in finite] + [end for band in bands for ends in band for end in ends]
    x_low, x_high = min(x for x, _ in finite), max(x for x, _ in finite)
    x_ticks = _ticks(MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]).tick_values(x_low, x_high), x_low, x_high)
    y_all = [float(tick) for tick in MaxNLocator(nbins=5).tick_values(min(heights), max(heights))]
    if percent:
        y_all = [tick for tick in y_all if -1e-9 <= tick <= 100 + 1e-9]
    y_low, y_high = min(*y_all, min(heights)), max(*y_all, max(heights))
    plane = _Plane(x_low, x_high, y_low, y_high)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(_spoken(title, lines, factor))}">',
        *_axes(plane, x_ticks, y_all, x_label),
    ]
    for line, points, band in zip(lines, scaled, bands, strict=True):
        parts += _drawn(plane, line, points, band, markers)
    parts += _marks(plane, lines, scaled)
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Plane:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        if self.x_high == self.x_low:
            return (_LEFT + _WIDTH - _RIGHT) / 2
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _thinned(points: Points) -> Points:
    """Average neighbours where there are more points than a screen shows."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size < 2:
        return points
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _ticks(ticks: Sequence[float], low: float, high: float) -> list[float]:
    room = 1e-9 * max(1.0, abs(low), abs(high))
    return [float(tick) for tick in ticks if low - room <= tick <= high + room] or [low]


def _spoken(title: str, lines: Sequence[Line], factor: float) -> str:
    ends = [f"{line.label} ends at {factor * line.points[-1][1]:.4g}" for line in lines[:6] if line.points]
    more = f"; and {len(lines) - 6} more" if len(lines) > 6 else ""
    return f"{title}. {'; '.join(ends)}{more}."


def _axes(plane: _Plane, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for tick in y_ticks:
        y = f"{plane.y(tick):.1f}"
        yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
        yield f'<text class="tick" x="{_LEFT - 7}" y="{y}" dy=".32em" text-anchor="end">{_number(tick)}</text>'
    yield f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    for tick in x_ticks:
        yield (
            f'<text class="tick" x="{plane.x(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{_number(tick)}</text>'
        )
    middle = (_LEFT + right) / 2
    yield f'<text class="label" x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'


def _drawn(
    plane: _Plane, line: Line, points: Points, band: Sequence[tuple[float, float]], markers: bool
) -> Iterator[str]:
    colour = f"var(--c{line.colour % COLOURS})"
    title = f"<title>{escape(line.label)}</title>"
    if band and len(band) == len(points):
        there = [f"{plane.x(x):.1f},{plane.y(high):.1f}" for (x, _), (_, high) in zip(points, band, strict=True)]
        back = [f"{plane.x(x):.1f},{plane.y(low):.1f}" for (x, _), (low, _) in zip(points, band, strict=True)]
        yield f'<polygon points="{" ".join(there + back[::-1])}" fill="{colour}" opacity=".16"/>'
    steps, pen_down = [], False
    dots = []
    for x, y in points:
        if math.isfinite(y):
            place = f"{plane.x(x):.1f} {plane.y(y):.1f}"
            steps.append(f"{'L' if pen_down else 'M'}{place}")
            dots.append(place.split())
        pen_down = math.isfinite(y)
    if len(dots) > 1:
        dash = ' stroke-dasharray="5 3"' if line.dashed else ""
        yield f'<path class="line" stroke="{colour}"{dash} d="{"".join(steps)}">{title}</path>'
    if markers or len(dots) == 1:
        for x_place, y_place in dots:
            yield f'<circle cx="{x_place}" cy="{y_place}" r="3.2" fill="{colour}">{title}</circle>'


def _marks(plane: _Plane, lines: Sequence[Line], scaled: Sequence[Points]) -> Iterator[str]:
    """Write at the ends of lines whose they are, one below the other where they meet."""
    ends = []
    for line, points in zip(lines, scaled, strict=True):
        finite = [(x, y) for x, y in points if math.isfinite(y)]
        if line.mark and finite:
            ends.append((plane.y(finite[-1][1]), plane.x(finite[-1][0]), line))
    ends.sort(key=lambda end: end[0])
    places: list[float] = []
    for y, _, _ in ends:
        places.append(max([y, *(place + _LABEL_HEIGHT for place in places[-1:])]))
    limit = float(_HEIGHT - _BOTTOM)
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - _LABEL_HEIGHT
    for place, (_, x, line) in zip(places, ends, strict=True):
        yield (
            f'<text class="mark" x="{x + 5:.1f}" y="{place:.1f}" dy=".32em" '
            f'style="fill:var(--c{line.colour % COLOURS})">{escape(line.mark)}</text>'
        )


def _number(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 1e-12 or 1e-4 <= abs(value) < 1e6 else f"{value:.0e}"
