import itertools
import math

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from lightning_advreg.metrics import wilson_interval
from lightning_advreg.reporting import per_class_figure

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ABSENT = (math.nan, (0.0, 1.0))


def rates(*correct, images=100):
    return [(count / images, wilson_interval(count, images)) for count in correct]


def spread(classes, start=30):
    return rates(*(start + 7 * label % 50 for label in range(classes)))


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def texts(figure):
    (axes,) = figure.axes
    return [text for text in [*axes.get_xticklabels(), *axes.get_yticklabels(), *axes.texts] if text.get_text()]


def test_bars_are_percent_side_by_side_with_their_intervals():
    series = {"clean": [(0.9, (0.8, 0.95)), (0.7, (0.6, 0.75))], "PGD": [(0.5, (0.45, 0.6)), (0.2, (0.1, 0.3))]}
    figure = per_class_figure(series, ["cat", "dog"])
    (axes,) = figure.axes
    bars = axes.patches
    assert [bar.get_height() for bar in bars] == pytest.approx([90, 70, 50, 20])
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    assert [round(centre) for centre in centres] == [0, 1, 0, 1]
    assert centres[0] + bars[0].get_width() <= centres[2]
    assert (centres[0] + centres[2]) / 2 == pytest.approx(0)
    whiskers = [segment for lines in axes.collections for segment in lines.get_segments()]
    ends = [[y for _, y in segment] for segment in whiskers]
    assert ends == [pytest.approx([100 * end for end in ends]) for rates in series.values() for _, ends in rates]
    assert [segment[0][0] for segment in whiskers] == pytest.approx(centres)
    clean, attacked = to_hex(bars[0].get_facecolor()), to_hex(bars[2].get_facecolor())
    assert clean != attacked
    assert [to_hex(line.get_color()) for line in axes.lines] == [clean, attacked]
    assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx([80, 35])
    assert legend(figure) == ["clean (mean 80.0 %)", "PGD (mean 35.0 %)", "95 % interval"]
    assert axes.get_ylim() == (0, 100)


def test_a_class_without_images_is_a_gap_that_says_so_and_no_part_of_the_mean():
    figure = per_class_figure({"clean": [*rates(90), ABSENT, *rates(70)], "PGD": [*rates(50), ABSENT, *rates(20)]})
    (axes,) = figure.axes
    assert len(axes.patches) == 4
    assert [(text.get_text(), text.xy[0]) for text in axes.texts] == [("no images", 1)]
    assert legend(figure)[:2] == ["clean (mean 80.0 %)", "PGD (mean 35.0 %)"]


def test_a_class_that_only_one_series_lacks_leaves_that_bar_empty():
    (axes,) = per_class_figure({"clean": rates(90, 80), "PGD": [ABSENT, *rates(70)]}).axes
    (text,) = axes.texts
    clean, other = axes.patches[0], axes.patches[2]
    assert text.xy[0] == pytest.approx(other.get_x() + other.get_width() / 2 - 1)
    assert text.xy[0] > clean.get_x() + clean.get_width()


def test_gaps_too_narrow_for_words_are_counted_in_the_legend():
    figure = per_class_figure({"clean": [ABSENT] * 20 + spread(280)})
    assert not figure.axes[0].texts
    assert legend(figure)[-1] == "no images of 20 of 300 classes"


def test_a_series_without_any_images_has_no_mean():
    figure = per_class_figure({"clean": rates(90, 80), "PGD": [ABSENT, ABSENT]})
    assert legend(figure)[:2] == ["clean (mean 85.0 %)", "PGD"]
    assert len(figure.axes[0].lines) == 1


@pytest.mark.parametrize(
    ("classes", "names", "labels", "rotation"),
    [
        (4, ["cat", "dog", "bat", "a bird with a name too long"], ["cat", "dog", "bat", "a bird with a nam…"], 40),
        (2, ["cat", "dog"], ["cat", "dog"], 0),
        (10, NAMES, NAMES, 40),
        (10, None, [str(label) for label in range(10)], 0),
        (100, NAMES * 10, NAMES * 10, 90),
        (100, None, [str(label) for label in range(0, 100, 10)], 0),
        (1000, NAMES * 100, [str(label) for label in range(0, 1000, 100)], 0),
        (2, NAMES, NAMES[:2], 0),
    ],
)
def test_names_turn_as_there_are_more_and_numbers_come_in_round_steps(classes, names, labels, rotation):
    figure = per_class_figure({"clean": spread(classes)}, names)
    ticks = figure.axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == labels
    assert {tick.get_rotation() for tick in ticks} == {rotation}
    assert figure.axes[0].get_xlabel() == ("class" if labels[0] == "0" else "")
    assert [round(place) for place in figure.axes[0].get_xticks()] == [*range(0, classes, classes // len(labels))]


LONG = ["a rather long class name"] * 100
THREE = ["clean", "worst case of PGD " + 20 * "and PGD ", "PGD"]


@pytest.mark.parametrize(
    ("classes", "names", "series"),
    [
        (1, None, ["clean"]),
        (2, LONG, THREE),
        (10, NAMES, ["clean", "worst case"]),
        (10, LONG, THREE),
        (43, LONG, ["clean", "worst case"]),
        (100, LONG, THREE),
    ],
)
def test_nothing_is_clipped_and_the_legend_hides_no_bar(classes, names, series):
    figure = per_class_figure({name: spread(classes, start) for start, name in enumerate(series)}, names)
    renderer = drawn(figure)
    (axes,), (shown,) = figure.axes, figure.legends
    box = shown.get_window_extent(renderer)
    assert axes.bbox.y1 <= box.y0 < box.y1 <= figure.bbox.y1
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert axes.bbox.height > 0.4 * figure.bbox.height
    for text in texts(figure):
        extent = text.get_window_extent(renderer)
        assert extent.x0 >= 0
        assert extent.y0 >= 0
        assert extent.x1 <= figure.bbox.x1


@pytest.mark.parametrize("classes", [10, 40, 100])
def test_names_of_classes_do_not_touch(classes):
    names = None if classes == 10 else NAMES * 10
    figure = per_class_figure({"clean": spread(classes)}, names)
    renderer = drawn(figure)
    ticks = figure.axes[0].get_xticklabels()
    if ticks[0].get_rotation() == 40:  # boxes of slanted names overlap: what counts is the distance of their lines
        across = (ticks[1].get_position()[0] - ticks[0].get_position()[0]) * figure.axes[0].bbox.width / classes
        assert across * math.sin(math.radians(40)) > ticks[0].get_fontsize() * figure.dpi / 72 * 0.7
        # a name ends at its bar
        places = figure.axes[0].transData.transform([(place, 0) for place in range(classes)])[:, 0]
        ends = [tick.get_window_extent(renderer).x1 for tick in ticks]
        assert ends == pytest.approx(list(places), abs=10)
    else:
        boxes = [tick.get_window_extent(renderer) for tick in ticks]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_series_beyond_the_palette_differ_by_hatching_and_many_means_are_not_drawn():
    (axes,) = per_class_figure({f"attack {i}": rates(50) for i in range(9)}).axes
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in axes.patches}) == 9
    assert not axes.lines


def test_intervals_at_the_ends_and_single_precision_are_taken():
    (axes,) = per_class_figure(
        {
            "clean": [
                *rates(0, 10, images=10),
                (0.10000000149, (0.1, 0.2)),
                (0.2, (0.20000000298, 0.3)),
                (0.3, (0.2, 0.29999998212)),
            ]
        }
    ).axes
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0, 100, 10, 20, 30])


@pytest.mark.parametrize(
    ("series", "names", "message"),
    [
        ({}, None, "at least one series with at least one class"),
        ({"clean": []}, None, "at least one series with at least one class"),
        ({"clean": rates(90, 80), "PGD": rates(50)}, None, "got 2 of 'clean', 1 of 'PGD'; give NaN"),
        ({"clean": rates(90, 80)}, ["cat"], "class_names has 1 names, but there are 2 classes"),
        ({"clean": [(90, (80, 95))]}, None, "got 90 for class 0 of 'clean'; divide by 100"),
        ({"clean": [(-0.1, (0, 1))]}, None, "got -0.1 for class 0 of 'clean'"),
        ({"clean": [*rates(90), (0.8, (0.82, 0.9))]}, None, r"\(0.82, 0.9\) around 0.8 for class 1 of 'clean'"),
        ({"clean": [(0.9, (85, 95))]}, None, r"fractions in \[0, 1\] around its accuracy, got \(85, 95\)"),
        ({"clean": [(0.9, (math.nan, 1))]}, None, r"got \(nan, 1\) around 0.9"),
    ],
)
def test_what_makes_no_bars_is_refused(series, names, message):
    with pytest.raises(ValueError, match=message):
        per_class_figure(series, names)
