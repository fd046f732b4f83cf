import pytest
import torch
from torch import nn

from lightning_advreg.metrics import Accuracy, wilson_interval
from tests.metrics.processes import joined


def batch(n=50, classes=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, classes, generator=generator), torch.randint(classes, (n,), generator=generator)


def test_is_the_fraction_of_right_predictions_however_batches_are_cut():
    logits, y = batch()
    accuracy = Accuracy()
    for part in (slice(0, 7), slice(7, 8), slice(8, 50)):
        accuracy.update(logits[part], y[part])
    right = int((logits.argmax(1) == y).sum())
    assert 0 < right < 50
    assert accuracy.compute() == torch.tensor(right / 50)
    assert accuracy.compute().dtype == torch.float32


def test_images_that_are_not_counted_enter_neither_sum():
    logits, y = batch()
    counted = torch.arange(50) % 3 == 0
    masked, plain = Accuracy(), Accuracy()
    masked.update(logits, y, counted)
    plain.update(logits[counted], y[counted])
    assert (masked.correct, masked.total) == (plain.correct, plain.total)
    assert masked.total == 17


def test_states_are_whole_numbers_and_no_part_of_a_state_dict():
    accuracy = Accuracy()
    accuracy.update(*batch())
    assert accuracy.correct.dtype == accuracy.total.dtype == torch.int64
    assert nn.ModuleDict({"accuracy": accuracy}).state_dict() == {}


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_reset_forgets_and_nothing_seen_gives_zero():
    accuracy = Accuracy()
    accuracy.update(torch.eye(3), torch.arange(3))
    assert accuracy.compute() == 1
    accuracy.reset()
    assert accuracy.total == 0
    assert accuracy.compute() == 0


def test_updates_inside_and_outside_inference_mode_mix():
    with torch.inference_mode():
        accuracy = Accuracy()
        accuracy.update(torch.eye(3), torch.arange(3))
    accuracy.update(torch.eye(3), torch.zeros(3, dtype=torch.int64))
    assert accuracy.compute() == torch.tensor(4 / 6)


def test_column_labels_would_broadcast_and_are_refused():
    logits, y = batch()
    with pytest.raises(ValueError, match=r"must have shapes \(N, K\) and \(N,\), got \(50, 4\) and \(50, 1\)"):
        Accuracy().update(logits, y.unsqueeze(1))
    with pytest.raises(ValueError, match=r"counted must be a bool mask of shape \(50,\), got torch.int64"):
        Accuracy().update(logits, y, torch.ones(50, dtype=torch.int64))


def test_the_interval_is_that_of_what_was_counted():
    logits, y = batch()
    accuracy = Accuracy()
    with pytest.raises(ValueError, match="needs at least one counted image, got none; call update first"):
        accuracy.interval()
    accuracy.update(logits, y, torch.arange(50) < 20)
    right = int((logits.argmax(1) == y)[:20].sum())
    assert accuracy.interval() == wilson_interval(right, 20)
    assert accuracy.interval(0.5) == wilson_interval(right, 20, 0.5)
    with pytest.raises(ValueError, match=r"confidence must lie between 0 and 1, such as 0.95, got 95"):
        accuracy.interval(95)


def test_the_interval_is_over_all_processes_and_gives_the_states_back():
    first, second = Accuracy(), Accuracy()
    first.update(torch.eye(3), torch.arange(3))
    second.update(torch.eye(5), torch.zeros(5, dtype=torch.int64))
    joined(first, second)
    for confidence in (0.9, 2, 0.9):
        if confidence == 2:
            with pytest.raises(ValueError, match="confidence"):
                first.interval(confidence)
        else:
            assert first.interval(confidence) == wilson_interval(4, 8, confidence)
        assert (first.correct, first.total) == (3, 3)
    first.sync_on_compute = False
    assert first.interval() == wilson_interval(3, 3)
