"""Robust accuracy on the first images of data that are sorted by class."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.attacks import FGSM
from lightning_advreg.callbacks import RobustAccuracy, RobustEvaluation
from lightning_advreg.callbacks.class_tally import ClassTally

from .foreign import Foreign, images, trainer

LINE = r"^The 8 images that {} attacked are of 1 of the 2 classes of the data, which seem to be sorted by class"


def data(is_sorted):
    x, y = images(40)
    order = y.argsort(stable=True) if is_sorted else torch.arange(len(y))
    return DataLoader(TensorDataset(x[order], y[order]), batch_size=6)


def callbacks(max_samples):
    return [
        RobustAccuracy({"fgsm": FGSM(eps=0.1)}, max_samples=max_samples),
        RobustEvaluation(FGSM(eps=0.1), max_samples=max_samples, masking=False, curve_eps=[]),
    ]


@pytest.mark.parametrize("index", [0, 1])
def test_it_is_said_when_classes_are_missing(tmp_path, index):
    callback = callbacks(8)[index]
    with pytest.warns(UserWarning, match=LINE.format(type(callback).__name__)):
        trainer(tmp_path, callback).test(Foreign(), data(is_sorted=True), verbose=False)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(("is_sorted", "max_samples"), [(True, None), (False, 8)])
def test_nothing_is_said_of_all_images_or_of_mixed_ones(tmp_path, index, is_sorted, max_samples):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(tmp_path, callbacks(max_samples)[index]).test(Foreign(), data(is_sorted), verbose=False)
    assert not any("sorted by class" in str(warning.message) for warning in caught)


def said(labels, counted):
    tally = ClassTally("RobustAccuracy")
    for place in range(0, len(labels), 10):
        tally.see(labels[place : place + 10], max(0, min(10, counted - place)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tally.warn()
    return len(caught)


def test_what_chance_may_do_is_not_said():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randint(10, (300,), generator=generator)
    # a dozen images miss some of ten classes
    assert all(said(mixed[torch.randperm(300, generator=generator)], 12) == 0 for _ in range(20))
    ordered = mixed.sort().values
    # half of the classes in many images, and one in a few
    assert [said(ordered, counted) for counted in (2, 12, 150, 300)] == [0, 1, 1, 0]


def test_more_classes_than_the_table_has():
    tally = ClassTally("RobustAccuracy")
    tally.see(torch.arange(5000), counted=2000)
    assert tally.classes() == (1024, 1024)
