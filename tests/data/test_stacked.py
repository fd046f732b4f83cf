"""Three digits in one image."""

import pytest
import torch

from lightning_advreg.data import MNISTDataModule, StackedMNISTDataModule
from lightning_advreg.data.stacked import stack_digits

from .sources import TEST, TRAIN, write_idx


def test_each_channel_is_the_digit_that_the_label_says(tmp_path):
    write_idx(tmp_path, "MNIST")
    for train, count in ((True, TRAIN), (False, TEST)):
        images, labels = MNISTDataModule(tmp_path).read(train=train)
        stacked, classes = StackedMNISTDataModule(tmp_path, seed=3).read(train=train)
        assert (
            stacked.shape == (count, 3, 28, 28) and stacked.dtype == torch.uint8 and len(classes.unique()) > count / 2
        )
        for channel, power in enumerate((100, 10, 1)):
            # the images are random, so that each is found once
            found = (stacked[:, None, channel] == images[None, :, 0]).flatten(2).all(2)
            assert torch.equal(found.sum(1), torch.ones(count, dtype=torch.int64))
            assert torch.equal(labels[found.long().argmax(1)], classes // power % 10)
        again, _ = StackedMNISTDataModule(tmp_path, seed=4).read(train=train)
        assert torch.equal(again, stacked)


def test_batches_of_stacked_digits(tmp_path):
    write_idx(tmp_path, "MNIST")
    data = StackedMNISTDataModule(tmp_path, batch_size=8, val_size=10)
    data.setup("fit")
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (8, 3, 28, 28) and x.min() >= 0 and x.max() <= 1 and y.max() > 9


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"images must be grey, of shape \(N, 1, H, W\), got \(2, 3, 4, 4\)"):
        stack_digits(torch.zeros(2, 3, 4, 4), torch.zeros(2).long(), 1, torch.Generator())
    with pytest.raises(ValueError, match="labels must be digits from 0 to 9, got 0 to 10"):
        stack_digits(torch.zeros(2, 1, 4, 4), torch.tensor([0, 10]), 1, torch.Generator())
