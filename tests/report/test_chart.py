import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from lightning_advreg.report.chart import Line, line_chart


def draw(*lines, **settings):
    return line_chart(lines, **{"title": "Loss", "x_label": "epochs", **settings})


def paths(svg):
    return [
        [tuple(map(float, place.split())) for place in re.split("[ML]", path)[1:]]
        for path in re.findall(r' d="([^"]*)"', svg)
    ]


def marks(svg):
    return [(float(y), text) for y, text in re.findall(r'class="mark" x="[\d.]+" y="(-?[\d.]+)"[^>]*>([^<]*)<', svg)]


def test_higher_values_stand_higher_and_later_ones_to_the_right():
    ((first, second, third),) = paths(draw(Line(label="a", points=[(1, 5.0), (2, 1.0), (3, 9.0)])))
    assert first[0] < second[0] < third[0]
    assert third[1] < first[1] < second[1]
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=0.11)


def test_the_chart_is_xml_even_with_hostile_names():
    svg = draw(Line(label='<script>"&', points=[(0, 1), (1, 2)], mark="<b>"), title="</svg><script>")
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg" and "script" not in {child.tag for child in root.iter()}
    assert root.attrib["aria-label"].startswith("</svg><script>.")


def test_values_that_are_not_finite_leave_a_gap():
    svg = draw(Line(label="a", points=[(0, 1), (1, 2), (2, math.inf), (3, math.nan), (4, 1), (5, 3)]))
    assert re.search(r' d="([^"]*)"', svg).group(1).count("M") == 2
    assert "nan" not in svg.replace("is nan", "") and "inf" not in svg


@pytest.mark.parametrize("points", [[], [(1, math.nan)]])
def test_nothing_to_draw_is_nothing(points):
    assert draw(Line(label="a", points=points)) == ""


@pytest.mark.parametrize("points", [[(1, 0.5)], [(1, 0.5), (2, 0.5)], [(1, 0.0), (2, 0.0)], [(1, 1e-12), (2, 3e9)]])
def test_a_single_point_and_constant_values_stay_inside(points):
    svg = draw(Line(label="a", points=points))
    places = [place for path in paths(svg) for place in path]
    places += [tuple(map(float, found)) for found in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert places and all(0 <= x <= 460 and 0 <= y <= 280 for x, y in places)


def test_percent_is_shown_as_such_and_not_beyond_100():
    svg = draw(Line(label="a", points=[(1, 0.97), (2, 0.999)]), percent=True)
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([^<]*)<', svg)]
    assert ticks and max(ticks) <= 100 and min(ticks) >= 90


def test_long_curves_are_thinned_to_means():
    points = [(step / 10, float(step % 2)) for step in range(4000)]
    svg = draw(Line(label="a", points=points))
    assert len(paths(svg)[0]) <= 160
    assert all(0.4 < float(text) < 0.6 for text in re.findall(r'text-anchor="end">([^<]*)<', svg))


def test_marks_of_lines_that_meet_stand_apart_and_inside():
    lines = [Line(label=str(number), points=[(0, 1.0), (1, 0.0)], mark=str(number)) for number in range(15)]
    found = marks(draw(*lines))
    assert len(found) == 15
    heights = sorted(y for y, _ in found)
    assert all(after - before > 11 for before, after in itertools.pairwise(heights))
    assert heights[-1] <= 280 - 42


def test_bands_dashes_and_markers():
    svg = draw(
        Line(label="a", points=[(0, 0.9), (1, 0.5)], band=[(0.8, 0.95), (0.4, 0.6)]),
        Line(label="b", points=[(0, 0.9), (1, 0.5)], dashed=True, colour=9),
        percent=True,
        markers=True,
    )
    assert svg.count("<polygon") == 1 and svg.count("stroke-dasharray") == 1 and svg.count("<circle") == 4
    assert "var(--c1)" in svg
