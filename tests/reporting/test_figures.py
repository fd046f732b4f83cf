import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from lightning_advreg.reporting import accuracy_curve_figure, adversarial_examples_figure, save_figure


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
def test_rows_are_clean_perturbation_and_attacked(channels, size):
    x = torch.full((2, channels, size, size), 0.5)
    x_adv = x.clone()
    x_adv[0, :, 0, 0] += 8 / 255
    x_adv[0, :, 0, 1] -= 4 / 255
    y = torch.tensor([0, 1])
    axes = np.array(adversarial_examples_figure(x, x_adv, y, y, y).axes).reshape(3, 2)
    clean, perturbation, attacked = (
        [np.array(axis.images[0].get_array()).reshape(size, size, channels) for axis in row] for row in axes
    )
    for column in range(2):
        assert np.array_equal(clean[column], x[column].permute(1, 2, 0))
        assert np.array_equal(attacked[column], x_adv[column].permute(1, 2, 0))
    # the largest change is white, half of it downwards is a dark grey, none is mid-grey
    assert perturbation[0][0, 0] == pytest.approx(1)
    assert perturbation[0][0, 1] == pytest.approx(0.25, abs=1e-6)
    assert (perturbation[0][1:] == 0.5).all()
    assert (perturbation[1] == 0.5).all()
    assert [axis.get_title() for axis in axes[1]] == ["±8/255", "±0/255"]
    assert all(axis.images[0].get_clim() == (0, 1) for axis in axes.flat)


def test_titles_tell_right_from_wrong_by_sign_and_colour():
    x, truth = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    figure = adversarial_examples_figure(
        x, x, truth, torch.tensor([0, 2]), torch.tensor([1, 1]), ["cat", "a very long class name A", "dog"]
    )
    axes = np.array(figure.axes).reshape(3, 2)
    titles = [[axis.get_title() for axis in axes[row]] for row in (0, 2)]
    assert titles == [["✓ cat", "✗ dog"], ["✗ a very long…", "✓ a very long…"]]
    colours = [[to_hex(axis.title.get_color()) for axis in axes[row]] for row in (0, 2)]
    right, wrong = colours[0]
    assert right != wrong
    assert colours[1] == [wrong, right]
    assert [axis.texts[0].get_text() for axis in axes[0]] == ["label: cat", "label: a very long…"]


def test_right_and_wrong_go_by_class_where_shortened_names_are_alike():
    names = ["a very long name, first", "a very long name, second"]
    x, zero, one = torch.rand(1, 1, 8, 8), torch.tensor([0]), torch.tensor([1])
    axes = adversarial_examples_figure(x, x, zero, zero, one, names).axes
    assert (axes[0].get_title()[0], axes[2].get_title()[0]) == ("✓", "✗")


def overlapping(figure):
    """Pairs of texts that touch."""
    renderer = figure.canvas.get_renderer()
    texts = [axis.title for axis in figure.axes] + [text for axis in figure.axes for text in axis.texts]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    return [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]


def test_texts_do_not_overlap():
    names = ["automobile", "MMMMMM", "a name that is too long"]
    x, y = torch.rand(8, 3, 32, 32), torch.tensor([0, 1, 2, 0, 0, 1, 2, 2])
    figure = adversarial_examples_figure(x, x, y, y, y, names)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    assert overlapping(figure) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_adv": torch.rand(2, 1, 8, 9)}, r"must have one shape.*got \(2, 1, 8, 8\) and \(2, 1, 8, 9\)"),
        ({"predictions": torch.zeros(3)}, r"predictions must have shape \(2,\), one per image, got \(3,\)"),
        ({"class_names": ["cat"]}, "class_names has 1 names, but there are classes from 0 to 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    y = torch.tensor([0, 1])
    x = torch.rand(2, 1, 8, 8)
    arguments = {"x": x, "x_adv": x, "labels": y, "predictions": y, "predictions_adv": y, **change}
    with pytest.raises(ValueError, match=message):
        adversarial_examples_figure(**arguments)


def test_a_figure_is_saved_at_its_resolution(tmp_path):
    save_figure(accuracy_curve_figure([0, 0.1], {"a": [0.5, 0.4]}), tmp_path / "new" / "curve.png")
    assert Image.open(tmp_path / "new" / "curve.png").size == (672, 456)
