"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100, downloaded and read by torchvision."""

import math
import pickle
import struct
import tarfile
from abc import abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_advreg.data.augment import RandomCropFlip
from lightning_advreg.data.base import ImageDataModule, LoaderKind
from lightning_advreg.data.class_names import CIFAR10, CIFAR100, DIGITS, FASHION
from lightning_advreg.values import Number

_DAMAGED = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, EOFError, pickle.UnpicklingError)
"""What reading a damaged file raises."""


class TorchvisionDataModule(ImageDataModule):
    """A data set of torchvision, kept as uint8 in memory.

    Args:
        data_dir: The folder that torchvision calls ``root``; a data set has its own folder in it.
        download: Download what is missing, in ``prepare_data``.
        batch_size: Training images per batch and process.
        eval_batch_size: The same for validation and test; ``batch_size`` where it is None.
        val_size: Validation images: a count (int), or a fraction of the training set (float below 1); 0 for none.
        train_size: Train on this many images only, a stratified choice; None for all that validation leaves.
        seed: Of split, order and augmentation; 0 or more.
        augment: Augment training images in the way of the data set.
        loader: ``"standard"`` for a DataLoader, ``"resident"`` for images that stay on the device.
        num_workers: Processes that fetch batches for the standard loader; 0 for none.
        extra_path: A ``.npz`` file of generated images that join each training batch; see :class:`ImageDataModule`.
        extra_fraction: Their share of each training batch.

    Raises:
        FileNotFoundError: In ``prepare_data`` and ``setup``, if files are missing and ``download`` is not set.
        RuntimeError: In ``setup``, if files are not those that were published; in ``prepare_data``, if they cannot be
            downloaded.
    """

    dataset_name: ClassVar[str]
    """The name of the class in ``torchvision.datasets``."""

    def __init__(
        self,
        data_dir: str | Path = "data",
        *,
        download: bool = False,
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
        data_dir = str(data_dir)
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
        self.data_dir = data_dir
        self.download = download

    def dataset_class(self) -> Any:  # noqa: ANN401
        """Give the class of torchvision that reads the data."""
        # by name: torchvision has no types, and takes a second to import
        return getattr(import_module("torchvision.datasets"), self.dataset_name)

    @abstractmethod
    def files(self) -> list[Path]:
        """Give the files that have to be there."""

    @abstractmethod
    def convert(self, dataset: Any) -> Tensor:  # noqa: ANN401
        """Give the images of a data set of torchvision, uint8 ``(N, C, H, W)``."""

    def prepare_data(self) -> None:
        """Download what is missing if ``download`` is set; check that all files are there."""
        if self.download:
            self._download()
        self._check_files()

    def read(self, *, train: bool) -> tuple[Tensor, Tensor]:
        """Read the official training or test set."""
        self._check_files()
        try:
            dataset = self.dataset_class()(self.data_dir, train=train)
        # torchvision checks what it reads by assertions here, by checksums there, or not at all
        except (*_DAMAGED, OSError) as error:
            raise RuntimeError(
                f"the files in {self.files()[0].parent} are damaged or not the published ones; delete the folder and "
                "set download=True (--data.init_args.download true). torchvision says: "
                f"{str(error) or type(error).__name__}"
            ) from error
        return self.convert(dataset), torch.as_tensor(dataset.targets, dtype=torch.int64)

    def cut_off(self, file: Path) -> bool:
        """Tell whether a file that is there is not whole, as far as torchvision would not see it."""
        return False

    def _download(self) -> None:
        for file in self.files():
            # torchvision takes a file that an interrupted run has half unpacked for a whole one
            if file.is_file() and self.cut_off(file):
                rank_zero_warn(f"{file} is cut off, and fetched anew.")
                file.unlink()
        try:
            for train in (True, False):
                self.dataset_class()(self.data_dir, train=train, download=True)
        # OSError has the errors of networks, and tar files the rest
        except (*_DAMAGED, OSError, tarfile.TarError) as error:
            raise RuntimeError(
                f"{self.dataset_name} could not be downloaded into {Path(self.data_dir).absolute()}: "
                f"{str(error) or type(error).__name__}. Try again, which keeps the files that are whole; or put "
                f"{', '.join(file.name for file in self.files())} into {self.files()[0].parent} yourself."
            ) from error

    def _check_files(self) -> None:
        files = self.files()
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            folder = files[0].parent
            others = f"; it looked for {', '.join(file.name for file in files)}" if len(missing) < len(files) else ""
            raise FileNotFoundError(
                f"{type(self).__name__} finds no {', '.join(missing)} in {folder}{others}. Set data_dir, now "
                f"{self.data_dir!r}, to the folder that contains {folder.relative_to(Path(self.data_dir).absolute())}, "
                "or set download=True (--data.init_args.download true)."
            )


class MNISTDataModule(TorchvisionDataModule):
    """MNIST: 60,000 and 10,000 handwritten digits, gray, 28x28 (LeCun et al., 1998).

    Files are ``<data_dir>/MNIST/raw/*-ubyte``. ``augment=True`` shifts by up to two pixels, without flips. Arguments
    are those of :class:`TorchvisionDataModule`.

    Example:
        >>> MNISTDataModule("data").image_shape
        (1, 28, 28)
    """

    num_classes = 10
    image_shape = (1, 28, 28)
    dataset_name = "MNIST"
    class_names = DIGITS
    augmentation = RandomCropFlip(padding=2, flip=False)

    def files(self) -> list[Path]:
        """Give the four unpacked files."""
        folder = Path(self.data_dir).absolute() / self.dataset_name / "raw"
        return [folder / Path(name).with_suffix("").name for name, _ in self.dataset_class().resources]

    def cut_off(self, file: Path) -> bool:
        """Compare the size of a file with the one that its header announces."""
        with file.open("rb") as opened:
            magic = opened.read(4)
            sizes = opened.read(4 * magic[3]) if len(magic) == 4 else b""
        if len(magic) < 4 or len(sizes) < 4 * magic[3]:
            return True
        count = math.prod(struct.unpack(f">{magic[3]}I", sizes))
        return file.stat().st_size < 4 + len(sizes) + count

    def convert(self, dataset: Any) -> Tensor:  # noqa: ANN401
        """Give images ``(N, 1, 28, 28)``."""
        images: Tensor = dataset.data
        return images.unsqueeze(1)


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST: 60,000 and 10,000 pictures of clothes, gray, 28x28 (Xiao et al., 2017).

    Files are ``<data_dir>/FashionMNIST/raw/*-ubyte``. ``augment=True`` flips, without shifts: the objects fill the
    picture. Arguments are those of :class:`TorchvisionDataModule`.

    Example:
        >>> FashionMNISTDataModule("data").class_names[9]
        'ankle boot'
    """

    dataset_name = "FashionMNIST"
    class_names = FASHION
    augmentation = RandomCropFlip(padding=0, flip=True)


class CIFAR10DataModule(TorchvisionDataModule):
    """CIFAR-10: 50,000 and 10,000 pictures of animals and vehicles, RGB, 32x32 (Krizhevsky, 2009).

    Files are ``<data_dir>/cifar-10-batches-py/*``, checked by torchvision against the published checksums. Training
    images are shifted by up to four pixels, over zeros, and flipped, unless ``augment`` is False.

    Args:
        data_dir: The folder that contains ``cifar-10-batches-py``, or will.
        download: Download what is missing, in ``prepare_data``.
        batch_size: Training images per batch and process.
        eval_batch_size: The same for validation and test; ``batch_size`` where it is None.
        val_size: Validation images: a count (int), or a fraction of the training set (float below 1); 0 for none.
        train_size: Train on this many images only, a stratified choice; None for all that validation leaves.
        seed: Of split, order and augmentation; 0 or more.
        augment: Shift and flip training images.
        loader: ``"standard"`` for a DataLoader, ``"resident"`` for images that stay on the device.
        num_workers: Processes that fetch batches for the standard loader; 0 for none.
        extra_path: A ``.npz`` file of generated images that join each training batch; see :class:`ImageDataModule`.
        extra_fraction: Their share of each training batch.

    Example:
        >>> data = CIFAR10DataModule("data", train_size=1000, loader="resident")
        >>> data.num_classes, data.image_shape, data.augment
        (10, (3, 32, 32), True)
    """

    num_classes = 10
    image_shape = (3, 32, 32)
    dataset_name = "CIFAR10"
    class_names = CIFAR10
    augmentation = RandomCropFlip(padding=4, flip=True)

    def __init__(
        self,
        data_dir: str | Path = "data",
        *,
        download: bool = False,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        val_size: int | float = 0.1,
        train_size: int | None = None,
        seed: int = 0,
        augment: bool = True,
        loader: LoaderKind = "standard",
        num_workers: int = 0,
        extra_path: str | Path | None = None,
        extra_fraction: Number = 0.7,
    ) -> None:
        # the outermost arguments are what Lightning saves, so the string has to be made here too
        data_dir = str(data_dir)
        extra_path = None if extra_path is None else str(extra_path)
        super().__init__(
            data_dir,
            download=download,
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

    def files(self) -> list[Path]:
        """Give the pickles of training, test and class names."""
        dataset = self.dataset_class()
        folder = Path(self.data_dir).absolute() / dataset.base_folder
        names = [name for name, _ in (*dataset.train_list, *dataset.test_list)]
        return [folder / name for name in (*names, dataset.meta["filename"])]

    def convert(self, dataset: Any) -> Tensor:  # noqa: ANN401
        """Give images ``(N, 3, 32, 32)``, channels first."""
        return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100: 50,000 and 10,000 pictures of 100 fine classes, RGB, 32x32 (Krizhevsky, 2009).

    Files are ``<data_dir>/cifar-100-python/*``. All else is as in :class:`CIFAR10DataModule`.

    Example:
        >>> CIFAR100DataModule("data").num_classes
        100
    """

    num_classes = 100
    dataset_name = "CIFAR100"
    class_names = CIFAR100
