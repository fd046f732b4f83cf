"""Files of generated images as this library writes them, read by its DataModules."""

import numpy as np
import pytest
import torch

from lightning_advreg.data import ArrayDataModule, DigitsDataModule
from lightning_advreg.data.generated_file import write_generated
from lightning_advreg.networks.pixels import to_bytes


def some(count=30):
    images = torch.randint(256, (count, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return images.to(torch.uint8), torch.arange(count) % 10


def test_pixels_are_rounded_not_truncated():
    levels = torch.arange(256) / 255
    assert to_bytes(levels).tolist() == list(range(256))
    assert to_bytes(levels.to(torch.float16).float() - 1e-3).tolist() == list(range(256))
    assert to_bytes(torch.tensor([0.5 / 255 + 1e-4, 1.01, -0.01])).tolist() == [1, 255, 0]


def test_extra_path_takes_the_file_from_the_disk(tmp_path):
    images, labels = some()
    path = write_generated(tmp_path / "new" / "a.npz", images, labels)
    data = DigitsDataModule(batch_size=10, train_size=60, val_size=20, extra_path=path, extra_fraction=0.7)
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (10, 1, 8, 8)
    rows = (x[3:, None] * 255).round().to(torch.uint8) == images[None]
    found = rows.flatten(2).all(2)
    assert found.sum(1).eq(1).all() and torch.equal(y[3:], labels[found.int().argmax(1)])


def test_array_data_module_takes_the_file(tmp_path):
    path = write_generated(tmp_path / "a.npz", *some())
    data = ArrayDataModule(path, batch_size=5)
    assert data.image_shape == (1, 8, 8) and data.num_classes == 10


def test_images_to_predict_are_those_of_the_test_set_or_of_validation(tmp_path):
    digits = DigitsDataModule(batch_size=50)
    assert torch.equal(
        *(torch.cat([x for x, _ in loader]) for loader in (digits.predict_dataloader(), digits.test_dataloader()))
    )
    digits = DigitsDataModule(batch_size=50)
    digits.predict_dataloader()
    assert digits.train_set is None
    data = ArrayDataModule(write_generated(tmp_path / "a.npz", *some()), batch_size=5, val_size=10)
    assert torch.equal(
        *(torch.cat([y for _, y in loader]) for loader in (data.predict_dataloader(), data.val_dataloader()))
    )


def test_colours_come_last(tmp_path):
    images = torch.zeros(2, 3, 4, 5, dtype=torch.uint8)
    images[1, 2, 3, 4] = 7
    stored = np.load(write_generated(tmp_path / "a", images, None))
    assert stored["image"].shape == (2, 4, 5, 3) and stored["image"][1, 3, 4, 2] == 7 and stored.files == ["image"]
    assert (tmp_path / "a.npz").is_file()


def test_bad_arguments(tmp_path):
    images, labels = some(3)
    with pytest.raises(TypeError, match=r"images must be uint8, got torch.float32; convert them with to_bytes"):
        write_generated(tmp_path / "a", images.float(), labels)
    with pytest.raises(ValueError, match=r"labels \(N,\), got \(3, 1, 8, 8\) and \(2,\)"):
        write_generated(tmp_path / "a", images, labels[:2])
    with pytest.raises(ValueError, match=r"with N at least 1"):
        write_generated(tmp_path / "a", images[:0], None)
