import re

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_advreg.data import ImageFolderDataModule

from .sources import TRAIN, write_pictures


@pytest.mark.parametrize("loader", ["standard", "resident"])
def test_pictures_are_resized_and_cropped_around_the_centre(tmp_path, loader):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = (10, 100, 200)  # the central third
    for part in ("train", "test"):
        (tmp_path / part / "only").mkdir(parents=True)
        Image.fromarray(wide).save(tmp_path / part / "only" / "a.png")
    data = ImageFolderDataModule(tmp_path, image_size=5, val_size=0, augment=False, loader=loader)
    (x, y), *_ = data.test_dataloader()
    assert x.shape == (1, 3, 5, 5) and y.tolist() == [0]
    assert (x[0, :, 2, 2] * 255).round().tolist() == [10, 100, 200]
    assert x[0, 2].min() > 0.6  # none of the black sides


def test_standard_loader_reads_pictures_when_asked(tmp_path):
    write_pictures(tmp_path)
    lazy, resident = (ImageFolderDataModule(tmp_path, image_size=12, loader=kind) for kind in ("standard", "resident"))
    lazy.setup("fit")
    resident.setup("fit")
    assert not isinstance(lazy.train_set.images, torch.Tensor)
    assert resident.train_set.images.dtype == torch.uint8 and resident.train_set.images.shape == (TRAIN, 3, 12, 12)


def test_classes_are_those_of_the_training_set(tmp_path):
    write_pictures(tmp_path)
    for picture in (tmp_path / "test" / "cat").iterdir():
        picture.unlink()
    (tmp_path / "test" / "cat").rmdir()
    data = ImageFolderDataModule(tmp_path, image_size=12)
    assert data.class_names == ("cat", "dog", "eel") and data.num_classes == 3
    # without cats, dogs are still class 1
    assert sorted(set(data.read(train=False)[1].tolist())) == [1, 2]
    (tmp_path / "test" / "fox").mkdir()
    with pytest.raises(ValueError, match=r"test has classes that .*train lacks: fox"):
        data.setup("test")


def test_missing_pictures(tmp_path):
    data = ImageFolderDataModule(tmp_path, image_size=12)
    for step in (data.prepare_data, data.setup):
        with pytest.raises(FileNotFoundError, match=rf"no class folders in {re.escape(str(tmp_path / 'train'))}"):
            step()
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no pictures in .*train for cat; it looked for .*\.png"):
        data.prepare_data()
    with pytest.raises(ValueError, match="image_size must be at least 1 pixel, got 0"):
        ImageFolderDataModule(tmp_path, image_size=0)


def test_a_folder_without_test_pictures(tmp_path):
    write_pictures(tmp_path)
    data = ImageFolderDataModule(tmp_path, image_size=12, test_folder="held_out")
    data.prepare_data()
    data.setup()
    assert data.test_set is None
    with pytest.raises(FileNotFoundError, match=r"no class folders in .*held_out.*test_folder"):
        data.test_dataloader()
