"""Figures of ablations: what is drawn where, and that names and data stay readable."""

import statistics

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from scipy.stats import t

from lightning_advreg.reporting import (
    generalisation_gap_figure,
    interaction_figure,
    learning_curves_figure,
    main_effects_figure,
    tradeoff_figure,
)

TWELVE = [f"PGD-AT + dropout + max-norm + variant {number}" for number in range(12)]


def drawn(figure):
    """Lay the figure out, as saving does, and give its size in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_width_height()


def within(figure, *artists):
    # positions are right only after drawing
    width, height = drawn(figure)
    boxes = [artist.get_window_extent() for artist in artists]
    return all(box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1 for box in boxes)


# clean against robust accuracy


def test_a_variant_is_a_point_with_its_standard_deviations():
    figure = tradeoff_figure({"a": [(0.9, 0.1), (0.8, 0.3)], "b": [(0.7, 0.5)]})
    axes = figure.axes[0]
    point, alone = axes.containers
    assert (point[0].get_xdata()[0], point[0].get_ydata()[0]) == pytest.approx((85, 20))
    (across,), (up,) = (bars.get_segments() for bars in point[2])
    assert across[1][0] - across[0][0] == pytest.approx(2 * statistics.stdev([90, 80]))
    assert up[1][1] - up[0][1] == pytest.approx(2 * statistics.stdev([10, 30]))
    assert not alone[2]
    assert axes.get_ylim()[0] < 20 - statistics.stdev([10, 30])


def test_twelve_variants_can_be_told_apart():
    figure = tradeoff_figure({name: [(0.9, 0.05 * place)] for place, name in enumerate(TWELVE)})
    looks = [(line.get_marker(), to_hex(line.get_color())) for line in figure.legends[0].get_lines()]
    assert len(set(looks)) == 12
    assert within(figure, figure.legends[0])


# learning curves


def test_the_end_of_a_course_fills_the_figure():
    course = {epoch: 0.1 for epoch in range(1, 5)} | {epoch: 0.9 + epoch / 1000 for epoch in range(5, 21)}
    axes = learning_curves_figure({"a": [course]}).axes[0]
    low, high = axes.get_ylim()
    assert 88 < low < 90.5
    assert 92 < high < 94


def test_the_band_is_one_standard_deviation_while_lines_are_few():
    runs = [{1: 0.5, 2: 0.6}, {1: 0.7, 2: 0.6}]
    few = learning_curves_figure({str(place): runs for place in range(6)})
    band = few.axes[0].collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((60 - 100 * 0.1 * 2**0.5, 60 + 100 * 0.1 * 2**0.5))
    assert "± standard deviation" in few.legends[0].get_title().get_text()
    many = learning_curves_figure({str(place): runs for place in range(7)})
    assert not many.axes[0].collections
    assert "±" not in many.legends[0].get_title().get_text()


def test_titles_and_legends_of_learning_curves_fit():
    curves = {name: [{1: 0.2, 2: 0.3}] for name in TWELVE}
    figure = learning_curves_figure(curves, "validation robust accuracy autoattack standard")
    assert within(figure, figure.legends[0])
    looks = {(line.get_linestyle(), to_hex(line.get_color())) for line in figure.axes[0].lines}
    assert len(looks) == 12


# heat map


def test_numbers_stand_in_their_fields_and_gaps_are_dashes():
    axes = interaction_figure({"a": {"1": 0.5, "2": 0.75}, "b": {"2": 0.25}}, "row", "column", "clean").axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "50.0", (1, 0): "75.0", (0, 1): "-", (1, 1): "25.0"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]


# main effects and generalisation gap


def test_levels_have_means_and_intervals_of_student():
    values = [0.5, 0.6, 0.7]
    figure = main_effects_figure({"norm": {"batch": {"clean": values}, "none": {"clean": [0.8]}}})
    batch, none = figure.axes[0].containers
    assert (batch[0].get_xdata()[0], none[0].get_xdata()[0]) == pytest.approx((60, 80))
    ((left, right),) = batch[2][0].get_segments()
    half = t.ppf(0.975, 2) * 10 / 3**0.5
    assert (left[0], right[0]) == pytest.approx((60 - half, 60 + half))
    assert not none[2]
    dotted = next(line for line in figure.axes[0].lines if line.get_linestyle() == ":")
    assert dotted.get_xdata()[0] == pytest.approx(65)


def test_a_panel_for_each_factor_and_metric():
    level = {"clean": [0.9], "robust": [0.1]}
    figure = main_effects_figure({"norm": {"batch": level, "none": level}, "size": {"10": level}})
    assert len(figure.axes) == 4
    assert [axes.get_xlabel() for axes in figure.axes[2:]] == ["clean (%)", "robust (%)"]


def test_long_names_stay_whole():
    for figure in (
        generalisation_gap_figure({name: ([1.0], [0.9]) for name in TWELVE}),
        main_effects_figure({"variant": {name: {"clean": [0.9]} for name in TWELVE}}),
    ):
        labels = figure.axes[0].get_yticklabels()
        assert [label.get_text() for label in labels] == TWELVE
        assert within(figure, *labels)
        # the data have as much room as with short names
        assert figure.axes[0].get_window_extent().width > 2.5 * figure.dpi


def test_the_gap_is_that_of_each_run():
    figure = generalisation_gap_figure({"a": ([1.0, 0.9], [0.9, 0.6])})
    # 10 and 30 points
    assert figure.axes[0].texts[0].get_text() == "20.0 ± 14.1"
    assert within(figure, figure.axes[0].texts[0])


# bad input


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: tradeoff_figure({}), r"points must have at least one variant"),
        (lambda: tradeoff_figure({"a": []}), r"each variant at least one run"),
        (lambda: tradeoff_figure({"a": [(90.0, 0.1)]}), r"fractions in \[0, 1\], got \[90\.0, 0\.1\] for 'a'; divide"),
        (lambda: learning_curves_figure({"a": [{}]}), r"curves must have at least one variant"),
        (lambda: interaction_figure({"a": {"b": 1.5}}, "x", "y", "z"), r"fractions in \[0, 1\]"),
        (lambda: main_effects_figure({}), r"effects must have at least one factor"),
        (lambda: main_effects_figure({"a": {"b": {"c": [2.0]}}}), r"for c of b; divide by 100"),
        (lambda: generalisation_gap_figure({}), r"gaps must have at least one variant"),
        (lambda: generalisation_gap_figure({"a": ([0.5], [])}), r"'a' needs one training and one test .* got 1, 0"),
    ],
)
def test_what_cannot_be_drawn(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
