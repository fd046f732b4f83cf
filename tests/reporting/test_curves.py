import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from lightning_advreg.reporting import accuracy_curve_figure


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_curve_is_in_percent_against_255ths():
    figure = accuracy_curve_figure(
        [0, 4 / 255, 8 / 255], {"PGD-AT": [0.8, 0.6, 0.5], "standard": [0.95, 0.1, 0]}, 0.1, attack="PGD-20"
    )
    (axes,) = figure.axes
    first, second, chance = axes.lines
    assert first.get_xdata() == pytest.approx([0, 4, 8])
    assert first.get_ydata() == pytest.approx([80, 60, 50])
    assert second.get_ydata() == pytest.approx([95, 10, 0])
    assert set(chance.get_ydata()) == {10}
    assert axes.get_ylim() == (0, 100)
    assert legend(figure) == ["PGD-AT", "standard", "chance (10 %)"]
    assert (figure.legends[0].get_title().get_text(), axes.get_ylabel()) == ("Accuracy under PGD-20", "accuracy (%)")
    assert "(1/255)" in axes.get_xlabel()
    assert first.get_color() != second.get_color()
    assert first.get_marker() != second.get_marker()


@pytest.mark.parametrize(
    ("norm", "eps", "shown", "label"),
    [
        ("linf", [0, 40 / 255], [0, 40], r"$L_\infty$ budget $\epsilon$ (1/255)"),
        ("linf", [0, 8 / 255, 0.3], [0, 8 / 255, 0.3], r"$L_\infty$ budget $\epsilon$ (pixels in [0, 1])"),
        ("l2", [0, 0.1], [0, 0.1], r"$L_2$ budget $\epsilon$ (pixels in [0, 1])"),
    ],
)
def test_only_small_budgets_of_linf_are_multiples_of_a_255th(norm, eps, shown, label):
    (axes,) = accuracy_curve_figure(eps, {"a": [0.8] * len(eps)}, norm=norm).axes
    assert axes.lines[0].get_xdata() == pytest.approx(shown)
    assert axes.get_xlabel() == label


def test_intervals_are_bands_in_the_colour_of_their_line_and_one_word_in_the_legend():
    intervals = {"b": [(0.4, 0.6), (0.2, 0.5)], "a": [(0.85, 0.95), (0.7, 0.9)]}
    figure = accuracy_curve_figure(
        [0, 8 / 255], {"a": [0.9, 0.8], "b": [0.5, 0.4], "bare": [0.3, 0.2]}, 0.1, intervals=intervals
    )
    (axes,) = figure.axes
    assert len(axes.collections) == 2
    for name, line, band in zip("ab", axes.lines[:2], axes.collections, strict=True):
        assert to_hex(band.get_facecolor()[0]) == to_hex(line.get_color())
        assert 0 < band.get_facecolor()[0][3] < 0.5
        corners = {(round(x), round(y)) for x, y in band.get_paths()[0].vertices}
        assert corners == {(8 * i, round(100 * end)) for i, ends in enumerate(intervals[name]) for end in ends}
    assert legend(figure) == ["a", "b", "bare", "95 % interval", "chance (10 %)"]


def test_without_intervals_none_are_announced():
    figure = accuracy_curve_figure([0, 0.1], {"a": [0.8, 0.6]}, intervals={})
    assert legend(figure) == ["a"]
    assert len(figure.axes[0].collections) == 0


def test_curves_beyond_the_palette_differ_by_their_line():
    lines = accuracy_curve_figure([0, 0.1], {f"network {i}": [0.8, 0.6] for i in range(15)}).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 15


@pytest.mark.parametrize("name", ["PGD-AT", "a network whose name goes on " + 20 * "and on "])
@pytest.mark.parametrize("networks", [1, 3, 9])
def test_the_legend_stays_inside_the_figure_and_above_the_data(networks, name):
    figure = accuracy_curve_figure([0, 0.1], {f"{i} {name}": [1, 0.6] for i in range(networks)}, 0.1, attack="PGD-20")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,), (box,) = figure.axes, [shown.get_window_extent(canvas.get_renderer()) for shown in figure.legends]
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert axes.bbox.y1 <= box.y0 < box.y1 <= figure.bbox.y1
    # a legend of many rows does not squeeze the data
    assert axes.bbox.height > 0.55 * 3.8 * figure.dpi
    assert axes.bbox.width > 0.8 * figure.bbox.width


PAIRS = [(0.4, 0.6), (0.3, 0.5)]


@pytest.mark.parametrize(
    ("eps", "curves", "options", "message"),
    [
        ([0, 0.1], {}, {}, "at least one budget in eps and one curve"),
        ([], {"a": []}, {}, "at least one budget in eps and one curve"),
        ([0, 0.1], {"a": [0.5]}, {}, "curve 'a' must have one accuracy per budget, 2, got 1"),
        ([0, 0.1], {"a": [50, 40]}, {}, r"fractions in \[0, 1\], got \[50, 40\] for 'a'; divide by 100"),
        ([0, 0.1], {"a": [0.5, 0.4]}, {"chance": 10}, r"fractions in \[0, 1\], got .* for 'chance'"),
        ([0.1, 0], {"a": [0.5, 0.4]}, {}, r"eps must ascend, .* got \[0.1, 0\]; sort"),
        ([0.1, 0.1], {"a": [0.5, 0.4]}, {}, "without repeats"),
        ([-0.1, 0.1], {"a": [0.5, 0.4]}, {}, "from 0 or more"),
        ([0, float("nan")], {"a": [0.5, 0.4]}, {}, "eps must ascend"),
        ([0, 0.1], {"a": [0.5, 0.4]}, {"norm": "linfty"}, "norm must be one of linf, l2, l1, got 'linfty'"),
        ([0, 0.1], {"a": [0.5, 0.4]}, {"intervals": {"b": PAIRS}}, "intervals has 'b', which is no curve.* are 'a'"),
        ([0, 0.1], {"a": [0.5, 0.4]}, {"intervals": {"a": PAIRS[:1]}}, "'a' must have one .* per budget, 2, got 1"),
        (
            [0, 0.1],
            {"a": [0.5, 0.4]},
            {"intervals": {"a": [(40, 60), (30, 50)]}},
            r"fractions in \[0, 1\] around its accuracy, got \(40, 60\) around 0.5 for 'a'",
        ),
        ([0, 0.1], {"a": [0.5, 0.2]}, {"intervals": {"a": PAIRS}}, r"got \(0.3, 0.5\) around 0.2 for 'a'"),
        ([0, 0.1], {"a": [0.5, 0.6]}, {"intervals": {"a": PAIRS}}, r"got \(0.3, 0.5\) around 0.6 for 'a'"),
        ([0, 0.1], {"a": [0.5, 1]}, {"intervals": {"a": [PAIRS[0], (0.9, 1.1)]}}, r"got \(0.9, 1.1\) around 1 for"),
        ([0, 0.1], {"a": [0.5, 0]}, {"intervals": {"a": [PAIRS[0], (-0.1, 0.1)]}}, r"got \(-0.1, 0.1\) around 0 for"),
    ],
)
def test_bad_curves_are_refused(eps, curves, options, message):
    with pytest.raises(ValueError, match=message):
        accuracy_curve_figure(eps, curves, **options)
