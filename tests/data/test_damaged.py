"""Files that are damaged, cut off, or not what their name says: each is named, with what to do."""

import gzip
import hashlib
import re
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, mnist

from lightning_advreg.data import (
    ArrayDataModule,
    CIFAR10DataModule,
    DigitsDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
)
from lightning_advreg.data.generated import GeneratedData

from .sources import TRAIN, pixels, trust_cifar, write_cifar, write_idx, write_npz, write_pictures


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])


# idx and pickles


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 3, 7, 40])
def test_idx_files_that_are_cut_off(tmp_path, name, keep):
    write_idx(tmp_path, "MNIST")
    cut(tmp_path / "MNIST" / "raw" / name, keep)
    with pytest.raises(RuntimeError, match=r"files in .*raw are damaged .*delete the folder and set download=True"):
        MNISTDataModule(tmp_path).setup("fit")


@pytest.mark.parametrize("content", [b"<html>404 Not Found</html>" * 40, struct.pack(">iiii", 0x803, 5, 28, 27) * 999])
def test_idx_files_that_are_something_else(tmp_path, content):
    write_idx(tmp_path, "MNIST")
    (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(RuntimeError, match=r"files in .*raw are damaged"):
        MNISTDataModule(tmp_path).setup("fit")


@pytest.mark.parametrize("keep", [0, 1, 500])
def test_cifar_pickles_that_are_cut_off(tmp_path, monkeypatch, keep):
    write_cifar(tmp_path, CIFAR10)
    # where no checksum finds it first
    trust_cifar(monkeypatch, CIFAR10)
    cut(tmp_path / "cifar-10-batches-py" / "data_batch_2", keep)
    with pytest.raises(RuntimeError, match=r"cifar-10-batches-py are damaged .*download=True .*torchvision says: \w+"):
        CIFAR10DataModule(tmp_path).setup("fit")


# downloads, from files that are on the disk


@pytest.fixture
def offline(monkeypatch):
    def fetch(url, filename, chunk_size=0):
        shutil.copyfile(url.removeprefix("file://"), filename)

    # what torchvision reads of a response, those of files lack
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", fetch)


def serve(folder, monkeypatch):
    """Publish a small MNIST in a folder, as files that end in .gz, with their checksums."""
    write_idx(folder, "MNIST")
    resources = []
    for path in sorted((folder / "MNIST" / "raw").iterdir()):
        packed = path.with_suffix(".gz") if path.suffix else Path(f"{path}.gz")
        packed.write_bytes(gzip.compress(path.read_bytes()))
        resources.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
    monkeypatch.setattr(mnist.MNIST, "resources", resources)
    monkeypatch.setattr(mnist.MNIST, "mirrors", [f"file://{folder / 'MNIST' / 'raw'}/"])


def test_an_interrupted_download_is_taken_up(tmp_path, monkeypatch, offline):
    serve(tmp_path / "there", monkeypatch)
    data = MNISTDataModule(tmp_path / "here", download=True)
    data.prepare_data()
    raw = tmp_path / "here" / "MNIST" / "raw"
    whole = {path.name: path.read_bytes() for path in raw.iterdir()}
    # one archive half fetched, one file half unpacked
    cut(raw / "train-images-idx3-ubyte.gz", 100)
    cut(raw / "train-images-idx3-ubyte", 1000)
    with pytest.warns(UserWarning, match=r"train-images-idx3-ubyte is cut off, and fetched anew"):
        data.prepare_data()
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == whole
    data.setup("fit")
    assert len(data.train_set.images) == TRAIN


def test_a_download_that_fails_is_one_clear_error(tmp_path, monkeypatch, offline):
    serve(tmp_path / "there", monkeypatch)
    (tmp_path / "there" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"another file")
    data = MNISTDataModule(tmp_path / "here", download=True)
    message = r"(?s)MNIST could not be downloaded into .*here: .*Try again.* or put .*train-images-idx3-ubyte"
    with pytest.raises(RuntimeError, match=message):
        data.prepare_data()


def test_an_archive_of_cifar_that_is_half_fetched(tmp_path, monkeypatch, offline):
    write_cifar(tmp_path / "there", CIFAR10)
    source = tmp_path / "there" / CIFAR10.filename
    with tarfile.open(source, "w:gz") as archive:
        archive.add(tmp_path / "there" / CIFAR10.base_folder, arcname=CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "url", f"file://{source}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(source.read_bytes()).hexdigest())
    for table in ("train_list", "test_list"):
        sums = [
            [name, hashlib.md5((tmp_path / "there" / CIFAR10.base_folder / name).read_bytes()).hexdigest()]
            for name, _ in getattr(CIFAR10, table)
        ]
        monkeypatch.setattr(CIFAR10, table, sums)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / CIFAR10.filename).write_bytes(source.read_bytes()[:200])
    data = CIFAR10DataModule(tmp_path / "here", download=True)
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_set.images) == TRAIN


# npz


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", ["cut", "flipped"])
def test_npz_files_that_are_damaged(tmp_path, save, kind):
    path = tmp_path / "a.npz"
    arrays = {"image": pixels(40, 8, 8, 3), "label": np.arange(40) % 4}
    save(path, **arrays)
    content = bytearray(path.read_bytes())
    if kind == "cut":
        path.write_bytes(content[: len(content) // 2])
        message = r"a.npz is no .npz file, or its end is missing; .*copy it again"
    else:
        content[1000:1100] = bytes(255 - value for value in content[1000:1100])
        path.write_bytes(content)
        message = r"a.npz is damaged or cut off \(.+\); copy, download or write it again"
    with pytest.raises(ValueError, match=message):
        ArrayDataModule(path).setup("fit")


def test_generated_images_whose_array_is_shorter_than_its_header_says(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, label=np.arange(4), image=pixels(4, 8, 8, 3))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(4, 8, 8, 3)", b"(9, 8, 8, 3)").replace(b"(4,)", b"(9,)"))
    with pytest.raises(ValueError, match=r"a.npz is damaged or cut off"):
        GeneratedData(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(tmp_path, value):
    path = tmp_path / "a.npz"
    x = np.random.default_rng(0).random((20, 8, 8))
    x[3, 2, 1] = x[7] = value
    np.savez(path, image=x, label=np.arange(20) % 4)
    with pytest.raises(
        ValueError, match=r"image must lie in \[0, 1\], but 2 of 20 images have pixels that are NaN or inf"
    ):
        ArrayDataModule(path).setup("fit")


# pictures


def damage(path, kind):
    whole = path.read_bytes()
    path.write_bytes({"text": b"this is no picture", "empty": b"", "cut": whole[: len(whole) // 2]}[kind])


@pytest.mark.parametrize("loader", ["standard", "resident"])
@pytest.mark.parametrize("kind", ["text", "empty", "cut"])
def test_a_picture_that_is_none_is_named(tmp_path, loader, kind):
    write_pictures(tmp_path)
    bad = tmp_path / "train" / "dog" / "001.png"
    damage(bad, kind)
    message = rf"{re.escape(str(bad))} is no picture that can be decoded \(.+\); replace or delete it. verify=True"
    data = ImageFolderDataModule(tmp_path, image_size=12, val_size=0, batch_size=4, loader=loader)
    with pytest.raises(ValueError, match=message):
        for _ in data.train_dataloader():
            pass


def test_verify_names_all_damaged_pictures_before_training(tmp_path):
    write_pictures(tmp_path)
    data = ImageFolderDataModule(tmp_path, image_size=12, verify=True)
    data.prepare_data()
    for name, kind in (("train/cat/000.png", "cut"), ("train/dog/001.png", "text"), ("test/eel/002.png", "empty")):
        damage(tmp_path / name, kind)
    with pytest.raises(ValueError, match=r"3 files in .* replace or delete them: .*000.png, .*001.png, .*eel.002.png$"):
        data.prepare_data()


# classes


def test_classes_without_images_are_named(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, image=pixels(20, 8, 8), label=np.arange(20) % 4)
    with pytest.warns(
        UserWarning, match=r"no images of 2 of its 6 classes \(4, 5\).*correct num_classes or the labels"
    ):
        ArrayDataModule(path, num_classes=6).setup("fit")


def test_full_classes_say_nothing(tmp_path, recwarn):
    write_npz(tmp_path / "a.npz")
    ArrayDataModule(tmp_path / "a.npz").setup()
    DigitsDataModule().setup()
    assert not [warning for warning in recwarn if "classes" in str(warning.message)]
