"""Pictures in folders, one folder per class."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lightning_advreg.data.augment import RandomCropFlip
from lightning_advreg.data.base import ImageDataModule, LoaderKind
from lightning_advreg.data.pixels import Images
from lightning_advreg.values import Number

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_SHOWN = 20
"""How many damaged files an error names."""


class FolderImages:
    """Pictures on disk that are decoded when they are asked for.

    Args:
        paths: A file per image.
        size: Side of the square that the shorter side is resized to, and the rest cropped around the centre.

    Example:
        >>> len(FolderImages([], size=32))
        0
    """

    def __init__(self, paths: Sequence[Path], *, size: int) -> None:
        # text in one array: a list of objects would be copied page by page into every worker process
        self.paths = np.array([str(path) for path in paths], dtype=np.str_)
        self.size = size

    def __len__(self) -> int:
        """Give the number of pictures."""
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Decode the pictures of int64 rows ``(n,)`` into uint8 ``(n, 3, size, size)``."""
        images = torch.empty(len(rows), 3, self.size, self.size, dtype=torch.uint8)
        for image, row in zip(images, rows.tolist(), strict=True):
            image.copy_(self._decode(str(self.paths[row])))
        return images

    def _decode(self, path: str) -> Tensor:
        try:
            with Image.open(path) as picture:
                square = ImageOps.fit(picture.convert("RGB"), (self.size, self.size), Image.Resampling.BILINEAR)
        # what Pillow raises depends on the format, and on where the file breaks off
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{path} is no picture that can be decoded ({str(error).partition(chr(10))[0]}); replace or delete it. "
                "verify=True (--data.init_args.verify true) finds all such files before training."
            ) from error
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)


class ImageFolderDataModule(ImageDataModule):
    """Pictures from ``<data_dir>/<train_folder>/<class>/`` and ``<data_dir>/<test_folder>/<class>/``.

    Classes are the folders of the training set, in alphabetical order. All pictures become RGB; the shorter side is
    resized to ``image_size`` and the centre cropped. The standard loader decodes them batch by batch, the resident
    loader all of them once.

    Args:
        data_dir: The folder with both parts.
        image_size: Side of the images in pixels.
        train_folder: Name of the folder of the training set.
        test_folder: Name of the folder of the test set; it may be missing, and then there is none.
        batch_size: Training images per batch and process.
        eval_batch_size: The same for validation and test; ``batch_size`` where it is None.
        val_size: Validation images: a count (int), or a fraction of the training set (float below 1); 0 for none.
        train_size: Train on this many images only, a stratified choice; None for all that validation leaves.
        seed: Of split, order and augmentation; 0 or more.
        augment: Shift by up to an eighth of ``image_size``, over the mirrored border, and flip.
        loader: ``"standard"`` for a DataLoader, ``"resident"`` for images that stay on the device.
        num_workers: Processes that fetch batches for the standard loader; 0 for none.
        extra_path: A ``.npz`` file of generated images that join each training batch; see :class:`ImageDataModule`.
        extra_fraction: Their share of each training batch.
        verify: Decode every picture once in ``prepare_data``, and name those that cannot be, before training.

    Raises:
        FileNotFoundError: If folders or pictures are missing, in ``prepare_data`` and ``setup``.
        ValueError: If ``image_size`` is not positive, the test set has a class that the training set lacks, or a
            picture cannot be decoded: in ``prepare_data`` with ``verify``, otherwise when it is asked for.

    Example:
        >>> ImageFolderDataModule("pictures", image_size=64).image_shape
        (3, 64, 64)
    """

    def __init__(
        self,
        data_dir: str | Path,
        *,
        image_size: int,
        train_folder: str = "train",
        test_folder: str = "test",
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
        verify: bool = False,
    ) -> None:
        # a plain string: hyper-parameters are saved from here, and checkpoints are to hold primitives only
        data_dir = str(data_dir)
        extra_path = None if extra_path is None else str(extra_path)
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1 pixel, got {image_size}.")
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
        self.image_shape = (3, image_size, image_size)
        self.train_folder = train_folder
        self.test_folder = test_folder
        self.verify = verify
        # at once where it can be: a command line links num_classes to the network before setup
        if self._folder(train=True).is_dir():
            self._describe()

    def prepare_data(self) -> None:
        """Check that there are classes, and pictures in each."""
        self._files(train=True)
        if self.has_test_set():
            self._files(train=False)
        if self.verify:
            self._verify()

    def setup(self, stage: str | None = None) -> None:
        """List or read what the stage needs, once; learn the classes.

        Args:
            stage: ``"fit"``, ``"validate"``, ``"test"``, or None for all.
        """
        if not hasattr(self, "num_classes"):
            self._describe()
        super().setup(stage)

    def has_test_set(self) -> bool:
        """Tell whether there is a folder of the test set."""
        return self._folder(train=False).is_dir()

    def augmentation_for_training(self) -> RandomCropFlip | None:
        """Give crop and flip to suit ``image_size``, or None if ``augment`` is False."""
        padding = self.image_shape[1] // 8
        return RandomCropFlip(padding=padding, flip=True, mode="reflect") if self.augment else None

    def read(self, *, train: bool) -> tuple[Images, Tensor]:
        """List the pictures of a part, and their labels."""
        label_of = {name: label for label, name in enumerate(self.class_names)}
        files = [(path, label_of[name]) for name, paths in self._files(train=train).items() for path in paths]
        labels = torch.tensor([label for _, label in files])
        return FolderImages([path for path, _ in files], size=self.image_shape[1]), labels

    def _folder(self, *, train: bool) -> Path:
        return Path(self.data_dir).absolute() / (self.train_folder if train else self.test_folder)

    def _verify(self) -> None:
        damaged: list[str] = []
        for train in (True, False) if self.has_test_set() else (True,):
            for paths in self._files(train=train).values():
                pictures = FolderImages(paths, size=self.image_shape[1])
                for row in range(len(pictures)):
                    try:
                        pictures[torch.tensor([row])]
                    except ValueError:
                        damaged.append(str(paths[row]))
        if damaged:
            shown = ", ".join(damaged[:_SHOWN]) + (", ..." if len(damaged) > _SHOWN else "")
            raise ValueError(
                f"{len(damaged)} files in {Path(self.data_dir).absolute()} are no pictures that can be decoded; "
                f"replace or delete them: {shown}"
            )

    def _describe(self) -> None:
        self.class_names = tuple(self._classes(train=True))
        self.num_classes = len(self.class_names)

    def _classes(self, *, train: bool) -> list[str]:
        folder = self._folder(train=train)
        classes = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
        if not classes:
            argument = "train_folder" if train else "test_folder"
            raise FileNotFoundError(
                f"there are no class folders in {folder}; put pictures into {folder / '<class>'}, or correct "
                f"data_dir or {argument}."
            )
        return classes

    def _files(self, *, train: bool) -> dict[str, list[Path]]:
        folder = self._folder(train=train)
        classes = self._classes(train=train)
        unknown = sorted(set(classes) - set(self._classes(train=True)))
        if unknown:
            raise ValueError(f"{folder} has classes that {self._folder(train=True)} lacks: {', '.join(unknown)}.")
        files = {
            name: sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in _SUFFIXES) for name in classes
        }
        empty = [name for name, paths in files.items() if not paths]
        if empty:
            raise FileNotFoundError(
                f"there are no pictures in {folder} for {', '.join(empty)}; it looked for files that end in "
                f"{', '.join(sorted(_SUFFIXES))}."
            )
        return files
