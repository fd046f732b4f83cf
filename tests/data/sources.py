"""Small data sets in the formats of the real ones, written by the tests themselves."""

import pickle
import struct

import numpy as np
from PIL import Image

from lightning_advreg.data import (
    ArrayDataModule,
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
)

TRAIN, TEST = 60, 20


def pixels(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(root, name):
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, count, seed in (("train", TRAIN, 0), ("t10k", TEST, 1)):
        images = pixels(count, 28, 28, seed=seed)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = struct.pack(">iiii", 0x803, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, count) + labels.tobytes())


def write_cifar(root, dataset):
    """Pickles of random pictures, as many files as the data set has."""
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    classes, key = (100, "fine_labels") if dataset.__name__ == "CIFAR100" else (10, "labels")
    files = [(name, TRAIN // len(dataset.train_list)) for name, _ in dataset.train_list]
    files += [(name, TEST) for name, _ in dataset.test_list]
    for seed, (name, count) in enumerate(files):
        content = {"data": pixels(count, 3072, seed=seed), key: [i % classes for i in range(count)]}
        (folder / name).write_bytes(pickle.dumps(content))
    meta = {dataset.meta["key"]: [str(i) for i in range(classes)]}
    (folder / dataset.meta["filename"]).write_bytes(pickle.dumps(meta))


def trust_cifar(monkeypatch, dataset):
    """Replace the published checksums, which small pickles cannot have."""
    for table in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, table, [[name, None] for name, _ in getattr(dataset, table)])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": None})


def write_npz(path, shape=(12, 10, 3)):
    np.savez(
        path,
        x_train=pixels(TRAIN, *shape),
        y_train=np.arange(TRAIN) % 3,
        x_test=pixels(TEST, *shape, seed=1),
        y_test=np.arange(TEST) % 3,
    )


def write_pictures(root, classes=("cat", "dog", "eel")):
    for part, count, seed in (("train", TRAIN, 0), ("test", TEST, 1)):
        for i, image in enumerate(pixels(count, 20, 14, 3, seed=seed)):
            folder = root / part / classes[i % len(classes)]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i:03d}.png")


def build_digits(root, monkeypatch, **kwargs):
    return DigitsDataModule(**kwargs)


def build_mnist(root, monkeypatch, **kwargs):
    write_idx(root, "MNIST")
    return MNISTDataModule(root, **kwargs)


def build_fashion(root, monkeypatch, **kwargs):
    write_idx(root, "FashionMNIST")
    return FashionMNISTDataModule(root, **kwargs)


def build_cifar10(root, monkeypatch, **kwargs):
    from torchvision.datasets import CIFAR10

    write_cifar(root, CIFAR10)
    trust_cifar(monkeypatch, CIFAR10)
    return CIFAR10DataModule(root, **kwargs)


def build_cifar100(root, monkeypatch, **kwargs):
    from torchvision.datasets import CIFAR100

    write_cifar(root, CIFAR100)
    trust_cifar(monkeypatch, CIFAR100)
    return CIFAR100DataModule(root, **kwargs)


def build_array(root, monkeypatch, **kwargs):
    write_npz(root / "data.npz")
    return ArrayDataModule(root / "data.npz", **kwargs)


def build_folder(root, monkeypatch, **kwargs):
    write_pictures(root)
    return ImageFolderDataModule(root, image_size=12, **kwargs)


BUILDERS = {
    "digits": build_digits,
    "mnist": build_mnist,
    "fashion": build_fashion,
    "cifar10": build_cifar10,
    "cifar100": build_cifar100,
    "array": build_array,
    "folder": build_folder,
}
