import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from lightning_advreg.metrics import ClasswiseAccuracy, wilson_interval

HIT = torch.tensor([True, False, True, True, False])
Y = torch.tensor([0, 0, 2, 2, 3])


def test_by_hand():
    accuracy = ClasswiseAccuracy(5)
    accuracy.update(HIT, Y)
    torch.testing.assert_close(
        accuracy.compute(), torch.tensor([0.5, torch.nan, 1.0, 0.0, torch.nan]), equal_nan=True, atol=0, rtol=0
    )
    assert accuracy.correct.tolist() == [1, 0, 2, 0, 0]
    assert accuracy.total.tolist() == [2, 0, 2, 1, 0]


def test_equals_the_accuracies_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    predictions, y = (torch.randint(7, (500,), generator=generator) for _ in range(2))
    theirs = MulticlassAccuracy(num_classes=7, average=None)
    theirs.update(predictions, y)
    ours = ClasswiseAccuracy(7)
    ours.update(predictions == y, y)
    torch.testing.assert_close(ours.compute(), theirs.compute())


def test_images_that_are_not_counted_enter_neither_sum():
    accuracy = ClasswiseAccuracy(4)
    accuracy.update(HIT, Y, counted=torch.tensor([True, True, True, False, False]))
    assert accuracy.correct.tolist() == [1, 0, 1, 0]
    assert accuracy.total.tolist() == [2, 0, 1, 0]


def test_intervals_are_those_of_each_class():
    accuracy = ClasswiseAccuracy(4)
    accuracy.update(HIT, Y)
    assert accuracy.intervals(0.9) == [
        wilson_interval(1, 2, 0.9),
        None,
        wilson_interval(2, 2, 0.9),
        wilson_interval(0, 1, 0.9),
    ]


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_labels_of_any_integer_type_are_taken(dtype):
    accuracy = ClasswiseAccuracy(4)
    accuracy.update(HIT, Y.to(dtype))
    assert accuracy.total.tolist() == [2, 0, 2, 1]


def test_an_empty_batch_changes_nothing():
    accuracy = ClasswiseAccuracy(4)
    accuracy.update(HIT[:0], Y[:0])
    assert accuracy.total.tolist() == [0] * 4


def test_bad_input_is_named_and_counts_nothing():
    accuracy = ClasswiseAccuracy(3)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got labels from 0 to 3"):
        accuracy.update(HIT, Y)
    with pytest.raises(ValueError, match="got labels from -1 to 2"):
        accuracy.update(HIT, Y - 1)
    with pytest.raises(TypeError, match=r"labels must be integer class indices, got torch.float32"):
        accuracy.update(HIT, Y.float())
    with pytest.raises(ValueError, match=r"labels must have shape \(N,\), got \(5, 1\)"):
        accuracy.update(HIT, Y.unsqueeze(1))
    with pytest.raises(ValueError, match=r"correct must be a bool mask of shape \(5,\), got torch.int64"):
        accuracy.update(Y, Y)
    with pytest.raises(
        ValueError, match=r"counted must be a bool mask of shape \(5,\), got torch.bool of shape \(1,\)"
    ):
        accuracy.update(HIT, Y, torch.tensor([True]))
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        ClasswiseAccuracy(0)
    assert accuracy.total.tolist() == [0, 0, 0]
