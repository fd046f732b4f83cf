import re

import numpy as np
import pytest
import torch

from lightning_advreg.data import ArrayDataModule

from .sources import pixels, write_npz


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def arrays(**changes):
    plain = {
        "x_train": pixels(20, 8, 9, 3),
        "y_train": np.arange(20) % 4,
        "x_test": pixels(6, 8, 9, 3, seed=1),
        "y_test": np.arange(6) % 4,
    }
    return {key: value for key, value in {**plain, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("layout", "shape"), [((8, 9), (1, 8, 9)), ((8, 9, 1), (1, 8, 9)), ((8, 9, 3), (3, 8, 9)), ((3, 8, 9), (3, 8, 9))]
)
def test_array_layouts(tmp_path, layout, shape):
    x = pixels(20, *layout)
    path = save(tmp_path / "a.npz", **arrays(x_train=x, x_test=x[:6]))
    data = ArrayDataModule(path)
    assert data.image_shape == shape and data.num_classes == 4 and data.class_names == ("0", "1", "2", "3")
    expected = x.transpose(0, 3, 1, 2) if layout[-1] in (1, 3) else x.reshape(20, *shape)
    assert data.read(train=True)[0].equal(torch.from_numpy(expected.copy()))


def test_float_arrays_keep_their_values(tmp_path):
    x = np.random.default_rng(0).random((20, 8, 9, 1))
    path = save(tmp_path / "a.npz", **arrays(x_train=x, x_test=x[:6]))
    data = ArrayDataModule(path, val_size=0, loader="resident")
    batch, _ = next(iter(data.test_dataloader()))
    assert batch.dtype == torch.float32 and batch.equal(torch.from_numpy(x[:6, None, :, :, 0]).float())


def test_generated_data_have_no_test_set(tmp_path):
    path = save(tmp_path / "a.npz", image=pixels(20, 8, 9, 3), label=np.arange(20) % 5)
    data = ArrayDataModule(path, val_size=5, num_classes=7)
    data.prepare_data()
    data.setup()
    assert len(data.train_set) == 15 and len(data.val_set) == 5 and data.num_classes == 7
    with pytest.raises(ValueError, match="has no test set, only image and label"):
        data.test_dataloader()


def test_array_file_that_appears_later(tmp_path):
    data = ArrayDataModule(tmp_path / "a.npz")
    with pytest.raises(FileNotFoundError, match=rf"no file {re.escape(str(tmp_path / 'a.npz'))}.*x_train, y_train"):
        data.prepare_data()
    with pytest.raises(FileNotFoundError):
        data.setup("fit")
    write_npz(tmp_path / "a.npz")
    data.setup("fit")
    assert data.num_classes == 3 and data.image_shape == (3, 12, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "lacks the arrays y_test; it has x_test, x_train, y_train"),
        ({"y_train": np.arange(19)}, "x_train has 20 images but y_train has 19 labels"),
        ({"y_train": np.zeros(20)}, "y_train must be integers of shape .*, got float64"),
        (
            {"y_train": np.zeros((20, 1), int)},
            r"y_train must be integers of shape \(N,\), N > 0, got int64 of shape \(20, 1\)",
        ),
        ({"y_train": np.arange(20) - 1}, r"labels of the training set go from -1 to 18, but must lie in \[0, 19\)"),
        ({"x_train": np.full((20, 8, 9, 3), 1.5)}, r"x_train must lie in \[0, 1\], got 1.5 to 1.5; divide by 255"),
        ({"x_train": np.full((20, 8, 9, 3), np.nan)}, r"x_train must lie in \[0, 1\], but 20 of 20 .* NaN"),
        ({"x_train": np.zeros((20, 8, 9, 3), np.int64)}, "x_train must be uint8, or floating point .*, got int64"),
        ({"x_train": pixels(20, 3, 9, 3)}, "may be channels first or channels last"),
        ({"x_train": pixels(20, 8, 9, 4)}, "x_train of shape .* is none of these"),
        ({"x_train": pixels(20, 72)}, "x_train of shape .* is none of these"),
        ({"x_train": np.array([object()] * 20)}, r"x_train of shape \(20,\) is none of these"),
        ({"y_train": np.array([object()] * 20)}, "pickled objects"),
    ],
)
def test_wrong_arrays(tmp_path, changes, message):
    path = save(tmp_path / "a.npz", **arrays(**changes))
    with pytest.raises(ValueError, match=message):
        ArrayDataModule(path).setup("fit")


def test_labels_beyond_num_classes(tmp_path):
    path = save(tmp_path / "a.npz", **arrays())
    with pytest.raises(ValueError, match=r"labels of the test set go from 0 to 3, .* num_classes=3"):
        ArrayDataModule(path, num_classes=3).setup("test")


def test_test_images_of_another_size(tmp_path):
    path = save(tmp_path / "a.npz", **arrays(x_test=pixels(6, 9, 9, 3)))
    with pytest.raises(ValueError, match=r"images of the test set have shape \(3, 9, 9\), expected \(3, 8, 9\)"):
        ArrayDataModule(path).setup("test")


def test_a_file_that_is_no_npz(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"a.npz is no .npz file"):
        ArrayDataModule(tmp_path / "a.npz")


def test_array_augmentation_flips_colour_only(tmp_path):
    colour = ArrayDataModule(save(tmp_path / "a.npz", **arrays()), augment=True)
    gray = ArrayDataModule(save(tmp_path / "b.npz", **arrays(x_train=pixels(20, 16, 9))), augment=True)
    assert colour.augmentation_for_training().flip and not gray.augmentation_for_training().flip
    assert gray.augmentation_for_training().padding == 1
