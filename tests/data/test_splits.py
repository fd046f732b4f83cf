import pytest
import torch

from lightning_advreg.data.seeding import seeded_generator
from lightning_advreg.data.splits import split_train_val, stratified_order


def split(labels, seed=0, **kwargs):
    return split_train_val(labels, generator=seeded_generator(seed), **{"val_size": 0, "train_size": None, **kwargs})


def test_every_prefix_is_stratified():
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate((400, 100, 50))])
    order = stratified_order(labels, seeded_generator(0))
    assert order.sort().values.equal(torch.arange(550))
    for length in (11, 55, 110, 333):
        counts = labels[order[:length]].bincount(minlength=3)
        assert (counts - torch.tensor([400, 100, 50]) * length / 550).abs().max() <= 1


def test_balanced_classes_are_split_evenly():
    labels = torch.arange(1000) % 10
    train, val = split(labels, val_size=100, train_size=50)
    assert labels[val].bincount().tolist() == [10] * 10 and labels[train].bincount().tolist() == [5] * 10
    assert set(train.tolist()).isdisjoint(val.tolist())


def test_the_order_within_and_between_classes_is_random():
    labels = torch.arange(1000) % 10
    order, other = (stratified_order(labels, seeded_generator(seed)) for seed in range(2))
    assert not order.equal(other)
    # all first ten images are of different classes, in no fixed sequence
    assert not labels[order].view(-1, 10).equal(labels[other].view(-1, 10))
    assert not order[labels[order] == 3].equal(order[labels[order] == 3].sort().values)


def test_the_split_is_the_same_on_every_machine():
    _, val = split(torch.arange(100) % 4, seed=7, val_size=0.1)
    assert val.tolist() == [51, 97, 96, 66, 89, 7, 4, 90, 65, 32]


@pytest.mark.parametrize(("val_size", "count"), [(0.25, 25), (25, 25), (1, 1), (0.0, 0), (0, 0)])
def test_counts_and_fractions(val_size, count):
    train, val = split(torch.arange(100) % 4, val_size=val_size)
    assert (len(train), len(val)) == (100 - count, count)
