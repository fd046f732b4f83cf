"""Reading the formats of the real data sets, and what is said when files are missing or wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100, mnist

from lightning_advreg.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    MNISTDataModule,
)

from .sources import TRAIN, pixels, trust_cifar, write_cifar, write_idx

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def test_digits():
    from sklearn.datasets import load_digits

    train, test = DigitsDataModule().read(train=True), DigitsDataModule(seed=9).read(train=False)
    assert len(train[0]) == 1437 and len(test[0]) == 360
    values = np.sort(load_digits().images.reshape(-1, 64) * 255 / 16, axis=None)
    assert (
        torch.cat([train[0], test[0]]).flatten().sort().values.equal(torch.from_numpy(values).round().to(torch.uint8))
    )
    # stratified, and the same for every seed
    assert (test[1].bincount() - 36).abs().max() <= 1
    assert test[0].equal(DigitsDataModule(seed=0).read(train=False)[0])
    assert torch.cat([train[1], test[1]]).bincount().tolist() == np.bincount(load_digits().target).tolist()


@pytest.mark.parametrize(("module", "name"), [(MNISTDataModule, "MNIST"), (FashionMNISTDataModule, "FashionMNIST")])
def test_idx_files(tmp_path, module, name):
    write_idx(tmp_path, name)
    images, labels = module(tmp_path).read(train=True)
    assert images.dtype == torch.uint8 and images.equal(torch.from_numpy(pixels(TRAIN, 28, 28))[:, None])
    assert labels.equal(torch.arange(TRAIN) % 10)


@pytest.mark.parametrize(("module", "dataset"), [(CIFAR10DataModule, CIFAR10), (CIFAR100DataModule, CIFAR100)])
def test_cifar_pickles(tmp_path, monkeypatch, module, dataset):
    write_cifar(tmp_path, dataset)
    trust_cifar(monkeypatch, dataset)
    images, labels = module(tmp_path).read(train=True)
    files = len(dataset.train_list)
    expected = np.concatenate([pixels(TRAIN // files, 3072, seed=seed) for seed in range(files)])
    assert images.equal(torch.from_numpy(expected).view(-1, 3, 32, 32)) and images.is_contiguous()
    assert labels.tolist() == list(range(TRAIN // files)) * files if files == 1 else len(labels) == TRAIN


def test_cifar_files_that_were_not_published(tmp_path):
    write_cifar(tmp_path, CIFAR10)
    with pytest.raises(RuntimeError, match=rf"files in {re.escape(str(tmp_path))}.*damaged.*download=True"):
        CIFAR10DataModule(tmp_path).setup("fit")


@pytest.mark.parametrize("step", ["prepare_data", "setup"])
@pytest.mark.parametrize(
    ("module", "folder", "files"),
    [
        (MNISTDataModule, "MNIST/raw", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]),
        (FashionMNISTDataModule, "FashionMNIST/raw", ["train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"]),
        (CIFAR10DataModule, "cifar-10-batches-py", ["data_batch_3", "test_batch", "batches.meta"]),
        (CIFAR100DataModule, "cifar-100-python", ["train", "test", "meta"]),
    ],
)
def test_missing_files_are_listed_with_the_remedy(tmp_path, monkeypatch, step, module, folder, files):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        getattr(module("nowhere"), step)()
    message = str(error.value)
    assert str(tmp_path / "nowhere" / folder) in message
    assert all(file in message for file in files)
    assert "download=True" in message and "--data.init_args.download true" in message


def test_only_what_is_missing_is_called_missing(tmp_path):
    write_idx(tmp_path, "MNIST")
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="finds no t10k-labels-idx1-ubyte in"):
        MNISTDataModule(tmp_path).prepare_data()


def test_download_fetches_all_files_and_only_when_asked(tmp_path, monkeypatch):
    fetched = []

    def fetch(url, download_root, filename, md5):
        fetched.append((filename, md5))
        if len(fetched) == 4:
            Path(download_root).rmdir()
            write_idx(tmp_path, "MNIST")

    monkeypatch.setattr(mnist, "download_and_extract_archive", fetch)
    with pytest.raises(FileNotFoundError):
        MNISTDataModule(tmp_path).prepare_data()
    assert not fetched
    data = MNISTDataModule(tmp_path, download=True)
    data.prepare_data()
    assert fetched == mnist.MNIST.resources
    data.prepare_data()
    assert len(fetched) == 4  # what is there is not fetched again
    data.setup("fit")
    assert len(data.train_set) == 54


def test_cifar_download(tmp_path, monkeypatch):
    asked = []
    trust_cifar(monkeypatch, CIFAR100)

    def fetch(self):
        asked.append(self.root)
        if len(asked) == 1:
            write_cifar(tmp_path, CIFAR100)

    monkeypatch.setattr(CIFAR100, "download", fetch)
    CIFAR100DataModule(tmp_path, download=True).prepare_data()
    assert set(asked) == {str(tmp_path)}
    asked.append(None)
    CIFAR100DataModule(tmp_path).prepare_data()
    assert asked[-1] is None


@pytest.mark.skipif(not (SHARED / "MNIST").is_dir(), reason="the real MNIST is not beside the repository")
def test_real_mnist():
    data = MNISTDataModule(SHARED, eval_batch_size=5000)
    data.prepare_data()
    data.setup()
    assert len(data.train_set) == 54_000 and len(data.val_set) == 6_000
    assert len(data.train_set.images) == 60_000
    labels = torch.cat([y for _, y in data.test_dataloader()])
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # the published mean and standard deviation of the training images
    pixels = data.train_set.images.double() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=1e-4)
    assert pixels.std().item() == pytest.approx(0.3081, abs=1e-4)


@pytest.mark.parametrize(
    ("module", "shape", "classes"),
    [
        (DigitsDataModule, (1, 8, 8), 10),
        (MNISTDataModule, (1, 28, 28), 10),
        (FashionMNISTDataModule, (1, 28, 28), 10),
        (CIFAR10DataModule, (3, 32, 32), 10),
        (CIFAR100DataModule, (3, 32, 32), 100),
    ],
)
def test_classes_and_shapes_are_known_without_files(module, shape, classes):
    assert module.image_shape == shape and module.num_classes == len(set(module.class_names)) == classes


def test_names_are_in_the_order_of_the_published_labels():
    assert [CIFAR100DataModule.class_names[i] for i in (0, 50, 99)] == ["apple", "mouse", "worm"]
    assert list(CIFAR100DataModule.class_names) == sorted(CIFAR100DataModule.class_names)
    assert [name.lower() for name in mnist.FashionMNIST.classes] == [
        name.lower() for name in FashionMNISTDataModule.class_names
    ]
