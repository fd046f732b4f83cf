"""Files of generated images for tests."""

import numpy as np

from lightning_advreg.data import DigitsDataModule

N = 200


def write(path, count=N, shape=(8, 8, 1), classes=10, save=np.savez, **changes):
    """Images of odd pixels, each with its number in the corner; digits of the data module have even ones."""
    image = np.full((count, *shape), 1, np.uint8)
    image.reshape(count, -1)[:, 0] = np.arange(count) % 256
    arrays = {"image": image, "label": np.arange(count) % classes, **changes}
    save(path, **{key: value for key, value in arrays.items() if value is not None})
    return str(path)


def digits(path, **kwargs):
    return DigitsDataModule(
        **{"batch_size": 10, "train_size": 60, "val_size": 20, "extra_path": path, "extra_fraction": 0.7, **kwargs}
    )


def numbers(x):
    """Which generated images a part of a batch is."""
    return (x[:, 0, 0, 0] * 255).round().long()


def generated(x):
    return (x.flatten(1)[:, 1:] == 1 / 255).all(1)
