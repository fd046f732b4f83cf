"""Images from a ``.npz`` file: one's own data, or generated images."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_advreg.data.augment import RandomCropFlip
from lightning_advreg.data.base import ImageDataModule, LoaderKind
from lightning_advreg.data.npz import array_names, read_arrays, stored_array
from lightning_advreg.data.pixels import Images
from lightning_advreg.values import Number

_WITH_TEST = ("x_train", "y_train", "x_test", "y_test")
_WITHOUT_TEST = ("image", "label")
_CHANNELS = (1, 3)


class ArrayDataModule(ImageDataModule):
    """Images and labels from a NumPy file, with or without a test set.

    The file has the arrays ``x_train, y_train, x_test, y_test``, or ``image, label``, the format in which generated
    extra data are published: all of it is for training and validation then, and there is no test set. Images are
    uint8, or floating point in [0, 1], which stays float32; of shape ``(N, H, W)``, ``(N, H, W, C)`` or
    ``(N, C, H, W)``, with 1 or 3 channels. Labels are integers from 0.

    Args:
        path: The ``.npz`` file. Pickled objects in it are refused.
        num_classes: Number of classes; one more than the largest label of the file where it is None.
        batch_size: Training images per batch and process.
        eval_batch_size: The same for validation and test; ``batch_size`` where it is None.
        val_size: Validation images: a count (int), or a fraction of the training set (float below 1); 0 for none.
        train_size: Train on this many images only, a stratified choice; None for all that validation leaves.
        seed: Of split, order and augmentation; 0 or more.
        augment: Shift by up to an eighth of the shorter side over zeros, and flip where there are three channels (gray
            images are often of characters, which a flip turns into others).
        loader: ``"standard"`` for a DataLoader, ``"resident"`` for images that stay on the device.
        num_workers: Processes that fetch batches for the standard loader; 0 for none.
        extra_path: A ``.npz`` file of generated images that join each training batch; see :class:`ImageDataModule`.
        extra_fraction: Their share of each training batch.

    Raises:
        FileNotFoundError: If the file is missing, in ``prepare_data`` and ``setup``.
        ValueError: If arrays are missing, differ in length, have a shape whose layout is not plain, labels that are no
            integers, or pixels out of range.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "data.npz"
        >>> np.savez(path, image=np.zeros((20, 8, 8, 3), np.uint8), label=np.arange(20) % 2)
        >>> data = ArrayDataModule(path, batch_size=4)
        >>> data.image_shape, data.num_classes, len(data.train_dataloader())
        ((3, 8, 8), 2, 4)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        num_classes: int | None = None,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        val_size: int | float = 0.1,
        train_size: int | None = None,
        seed: int = 0,
        augment: bool = False,
        loader: LoaderKind = "standard",
        num_workers: int = 0,
        extra_path: str | Path | None = None,
        extra_fraction: Number = 0.7,
    ) -> None:
        # a plain string: hyper-parameters are saved from here, and checkpoints are to hold primitives only
        path = str(path)
        extra_path = None if extra_path is None else str(extra_path)
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_size=val_size,
            train_size=train_size,
            seed=seed,
            augment=augment,
            loader=loader,
            num_workers=num_workers,
            extra_path=extra_path,
            extra_fraction=extra_fraction,
        )
        self.path = path
        self._num_classes = num_classes
        # at once where it can be: a command line links num_classes to the network before setup
        if Path(path).is_file():
            self._describe()

    def prepare_data(self) -> None:
        """Check that the file is there and has the arrays."""
        self._keys()

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs, once; learn the number of classes and the shape of the images.

        Args:
            stage: ``"fit"``, ``"validate"``, ``"test"``, or None for all.
        """
        if not hasattr(self, "num_classes"):
            self._describe()
        super().setup(stage)

    def has_test_set(self) -> bool:
        """Tell whether the file has ``x_test`` and ``y_test``."""
        return self._keys() == _WITH_TEST

    def augmentation_for_training(self) -> RandomCropFlip | None:
        """Give crop and flip to suit the images, or None if ``augment`` is False."""
        channels, height, width = self.image_shape
        return RandomCropFlip(padding=min(height, width) // 8, flip=channels == 3) if self.augment else None

    def read(self, *, train: bool) -> tuple[Images, Tensor]:
        """Read and check the arrays of a split."""
        if not train and not self.has_test_set():
            raise ValueError(
                f"{self.path} has no test set, only image and label; test with another data module, or add the arrays "
                f"{', '.join(_WITH_TEST)}."
            )
        x_key, y_key = self._keys()[:2] if train else _WITH_TEST[2:]
        x, y = read_arrays(self.path, x_key, y_key)
        if len(x) != len(y):
            raise ValueError(f"{x_key} has {len(x)} images but {y_key} has {len(y)} labels; they must be as many.")
        _check_labels(y, y_key)
        return _as_images(x, x_key), torch.from_numpy(y.astype(np.int64))

    def _keys(self) -> tuple[str, ...]:
        path = Path(self.path).absolute()
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no file {path}; set path to a .npz file with the arrays {', '.join(_WITH_TEST)}, or "
                f"{', '.join(_WITHOUT_TEST)}."
            )
        found = array_names(path)
        for keys in (_WITH_TEST, _WITHOUT_TEST):
            if found.issuperset(keys):
                return keys
        wanted = _WITHOUT_TEST if found & set(_WITHOUT_TEST) else _WITH_TEST
        raise ValueError(
            f"{path} lacks the arrays {', '.join(key for key in wanted if key not in found)}; it has "
            f"{', '.join(sorted(found)) or 'none'}, and needs {', '.join(_WITH_TEST)}, or {', '.join(_WITHOUT_TEST)}."
        )

    def _describe(self) -> None:
        keys = self._keys()
        self.image_shape = _image_shape(stored_array(self.path, keys[0]).shape, keys[0])
        self.num_classes = self._largest_label(keys) + 1 if self._num_classes is None else self._num_classes
        self.class_names = tuple(str(label) for label in range(self.num_classes))

    def _largest_label(self, keys: tuple[str, ...]) -> int:
        labels = dict(zip(keys[1::2], read_arrays(self.path, *keys[1::2]), strict=True))
        for key, y in labels.items():
            _check_labels(y, key)
        return max(int(y.max()) for y in labels.values())


def _image_shape(shape: tuple[int, ...], key: str) -> tuple[int, int, int]:
    if len(shape) == 3:
        return (1, shape[1], shape[2])
    first = len(shape) == 4 and shape[1] in _CHANNELS
    last = len(shape) == 4 and shape[3] in _CHANNELS
    if first == last:
        problem = "may be channels first or channels last" if first else "is none of these"
        raise ValueError(
            f"{key} of shape {shape} {problem}: (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels; "
            "change its shape."
        )
    return (shape[1], shape[2], shape[3]) if first else (shape[3], shape[1], shape[2])


def _as_images(x: NDArray[np.generic], key: str) -> Tensor:
    shape = _image_shape(x.shape, key)
    if x.dtype == np.uint8:
        images = torch.from_numpy(x)
    elif np.issubdtype(x.dtype, np.floating):
        images = torch.from_numpy(x.astype(np.float32))
        if bad := int((~images.isfinite()).flatten(1).any(1).sum()):
            raise ValueError(
                f"{key} must lie in [0, 1], but {bad} of {len(images)} images have pixels that are NaN or infinite; "
                f"find them with numpy.isfinite({key}), and leave them out."
            )
        low, high = (float(bound) for bound in images.aminmax())
        if low < 0 or high > 1:
            raise ValueError(f"{key} must lie in [0, 1], got {low:g} to {high:g}; divide by 255, or save as uint8.")
    else:
        raise ValueError(f"{key} must be uint8, or floating point in [0, 1], got {x.dtype}.")
    if x.ndim == 4 and shape != x.shape[1:]:
        images = images.permute(0, 3, 1, 2)
    return images.reshape(len(x), *shape).contiguous()


def _check_labels(y: NDArray[np.generic], key: str) -> None:
    if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1 or len(y) == 0:
        raise ValueError(f"{key} must be integers of shape (N,), N > 0, got {y.dtype} of shape {y.shape}.")
