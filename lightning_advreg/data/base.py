"""What all DataModules of image classification share: splits, loaders, and the share of each process."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_advreg.data.arguments import check_arguments
from lightning_advreg.data.augment import RandomCropFlip
from lightning_advreg.data.datasets import ImageDataset
from lightning_advreg.data.generated import GeneratedData, check_fraction
from lightning_advreg.data.pixels import Images
from lightning_advreg.data.resident import ResidentLoader
from lightning_advreg.data.samplers import EvalSampler, TrainSampler, even_batch_size, train_sampler
from lightning_advreg.data.seeding import seeded_generator
from lightning_advreg.data.splits import split_train_val
from lightning_advreg.data.standard import StandardLoader, standard_loader
from lightning_advreg.values import Number

LoaderKind = Literal["standard", "resident"]

_SPLIT_STREAM = 1
"""Key of the random stream of the split, apart from those of the epochs."""

_SHOWN = 20
"""How many empty classes a warning names."""


class ImageDataModule(LightningDataModule, ABC):
    """Training, validation and test batches of labelled images.

    Batches are ``(x, y)``: images, float32 in [0, 1] of shape ``(N, C, H, W)``, and labels, int64 of shape ``(N,)``.
    Normalisation belongs into the network. The validation set is cut from the official training set, seeded and
    stratified by class, and never augmented; the official test set is neither split nor used in ``fit``. Both kinds of
    loader give the same batches, image for image, which depend on ``seed`` and the epoch and never on the global random
    state. They share images among processes themselves: in training every process has equally many (up to
    ``world_size - 1`` images are left out in an epoch), in evaluation every image comes exactly once over all
    processes.

    With ``extra_path``, a fixed share of every training batch is generated images (Gowal et al. 2021; see
    ``lightning_advreg.data.generated``), augmented as the real ones are. ``batch_size`` counts both, and an epoch stays
    one pass over the real images, so it has about ``1 / (1 - extra_fraction)`` times as many batches. The
    ``overfit_batches`` of the Trainer are of real images alone.

    A subclass reads its data in :meth:`read`, and sets ``num_classes``, ``image_shape`` and ``class_names``.

    Args:
        batch_size: Training images per batch and process. A last batch that is not full is left out, unless it is the
            only one.
        eval_batch_size: Images per batch and process in validation and test; ``batch_size`` where it is None.
        val_size: Validation images, as a count (int) or as a fraction of the training set (float below 1); 0 for none.
        train_size: Train on this many images only, a stratified choice; smaller ones are contained in larger ones, and
            the validation set stays the same. None for all that validation leaves.
        seed: Of the split, the order and the augmentation; 0 or more.
        augment: Augment training images with the class's ``augmentation``.
        loader: ``"standard"`` for a DataLoader, or ``"resident"`` for uint8 images that stay on the device.
        num_workers: Processes that fetch batches for the standard loader; 0 for none.
        extra_path: A ``.npz`` file of generated images, ``image`` (uint8 ``(N, H, W, C)``) and ``label``; or None.
        extra_fraction: The share of generated images in each batch, between 0 and 1, rounded to whole images.

    Attributes:
        num_classes: Number of classes.
        image_shape: ``(C, H, W)`` of every image.
        class_names: A name per class.
        train_set: The training images, after ``setup``; likewise ``val_set`` (None where ``val_size`` is 0) and
            ``test_set``.

    Raises:
        ValueError: If an argument is out of its range, or leaves a split empty.
        FileNotFoundError: In ``prepare_data`` and ``setup``, if files of the data set are missing.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    augmentation: ClassVar[RandomCropFlip]
    """What ``augment=True`` does."""

    def __init__(
        self,
        *,
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
        super().__init__()
        # plain text: hyper-parameters are saved from here, and checkpoints are to hold primitives only
        extra_path = None if extra_path is None else str(extra_path)
        check_arguments(batch_size, eval_batch_size, val_size, train_size, seed, loader, num_workers)
        # logger=False: the logger would complain about keys that the module has too, such as seed
        self.save_hyperparameters(logger=False)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.train_size = train_size
        self.seed = seed
        self.augment = augment
        self.loader = loader
        self.num_workers = num_workers
        self.extra_path = extra_path
        self.extra_fraction = check_fraction(extra_fraction)
        self.train_set: ImageDataset | None = None
        self.val_set: ImageDataset | None = None
        self.test_set: ImageDataset | None = None
        self._on_device: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def read(self, *, train: bool) -> tuple[Images, Tensor]:
        """Read the official training set, or the official test set.

        Args:
            train: Which of the two.

        Returns:
            Images of ``image_shape``, uint8 or float32 in [0, 1], and labels, int64 in ``[0, num_classes)``.

        Raises:
            FileNotFoundError: If files are missing.
        """

    def setup(self, stage: str | None = None) -> None:
        """Read what the stage needs, once; further calls do nothing.

        Args:
            stage: ``"fit"``, ``"validate"``, ``"test"``, ``"predict"``, or None for all.
        """
        if stage not in ("test", "predict") and self.train_set is None:
            extra = self._extra()
            images, labels = self._read(train=True)
            generator = seeded_generator(self.seed, 0, _SPLIT_STREAM)
            train, val = split_train_val(
                labels, val_size=self.val_size, train_size=self.train_size, generator=generator
            )
            augment = self.augmentation_for_training()
            self.train_set = ImageDataset(images, labels, rows=train, augment=augment, extra=extra)
            self.val_set = ImageDataset(images, labels, rows=val) if len(val) else None
        if stage in ("test", None) and self.test_set is None and (stage == "test" or self.has_test_set()):
            self.test_set = ImageDataset(*self._read(train=False))

    def has_test_set(self) -> bool:
        """Tell whether there is a test set; data sets that may lack one override this."""
        return True

    def augmentation_for_training(self) -> RandomCropFlip | None:
        """Give the augmentation of training images, or None; for subclasses whose augmentation depends on the data."""
        return self.augmentation if self.augment else None

    def train_dataloader(self) -> StandardLoader | ResidentLoader:
        """Give the training batches: shuffled anew in each epoch, and augmented if ``augment`` is set."""
        self.setup("fit")
        assert self.train_set is not None
        # Lightning overfits on the first batches, so they have to be the same in every epoch
        if self.loader == "resident" and self._overfits():
            return self._loader(self.train_set, self.batch_size, shuffle=False)
        return self._loader(self.train_set, self.batch_size, shuffle=True)

    def val_dataloader(self) -> StandardLoader | ResidentLoader | list[StandardLoader]:
        """Give the validation batches, in order; an empty list where ``val_size`` is 0, which Lightning skips."""
        self.setup("validate")
        return [] if self.val_set is None else self._eval_loader(self.val_set)

    def test_dataloader(self) -> StandardLoader | ResidentLoader:
        """Give the batches of the official test set, in order."""
        self.setup("test")
        assert self.test_set is not None
        return self._eval_loader(self.test_set)

    def predict_dataloader(self) -> StandardLoader | ResidentLoader | list[StandardLoader]:
        """Give the batches of the test set, in order; those of validation where there is no test set."""
        return self.test_dataloader() if self.has_test_set() else self.val_dataloader()

    def teardown(self, stage: str) -> None:
        """Let go of the copies on the device; the images stay in memory.

        Args:
            stage: Not used.
        """
        self._on_device.clear()

    def _extra(self) -> GeneratedData | None:
        if self.extra_path is None:
            return None
        extra = GeneratedData(self.extra_path, self.extra_fraction)
        extra.check(self.image_shape, self.num_classes, self.batch_size)
        return extra

    def _read(self, *, train: bool) -> tuple[Images, Tensor]:
        images, labels = self.read(train=train)
        rows = torch.arange(len(images))
        if self.loader == "resident" and not isinstance(images, Tensor):
            images = images[rows]
        part = "training" if train else "test"
        if len(images) == 0 or len(images) != len(labels):
            raise ValueError(
                f"the {part} set has {len(images)} images and {len(labels)} labels; they must be as many, and not none."
            )
        shape = tuple(images[rows[:1]].shape[1:])
        if shape != self.image_shape:
            raise ValueError(f"images of the {part} set have shape {shape}, expected {self.image_shape} (C, H, W).")
        low, high = (int(bound) for bound in labels.aminmax())
        if low < 0 or high >= self.num_classes:
            raise ValueError(
                f"labels of the {part} set go from {low} to {high}, but must lie in [0, {self.num_classes}), for "
                f"num_classes={self.num_classes}; renumber the labels from 0 or correct num_classes."
            )
        if train:
            _warn_of_empty_classes(labels, self.num_classes)
        return images, labels

    def _eval_loader(self, data: ImageDataset) -> StandardLoader | ResidentLoader:
        batch_size = even_batch_size(len(data), self.eval_batch_size or self.batch_size, self._share().world_size)
        return self._loader(data, batch_size, shuffle=False)

    def _loader(self, data: ImageDataset, batch_size: int, *, shuffle: bool) -> StandardLoader | ResidentLoader:
        rank, world_size = self._share()
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        augment, extra = (data.augment, data.extra) if shuffle else (None, None)
        real = batch_size if extra is None else extra.counts(batch_size)[0]
        drop_last = data is self.train_set and len(data) // world_size > real
        if self.loader == "resident":
            images, labels = self._moved(data, device)
            return ResidentLoader(
                images,
                labels,
                rows=data.rows,
                batch_size=batch_size,
                shuffle=shuffle,
                augment=augment,
                seed=self.seed,
                rank=rank,
                world_size=world_size,
                drop_last=drop_last,
                extra=extra,
            )
        sampler: TrainSampler | EvalSampler
        if shuffle:
            sampler = train_sampler(
                len(data),
                extra=extra,
                batch_size=batch_size,
                variants=1 if augment is None else augment.variants,
                seed=self.seed,
                rank=rank,
                world_size=world_size,
            )
        else:
            sampler = EvalSampler(len(data), rank=rank, world_size=world_size)
        return standard_loader(
            data,
            sampler,
            batch_size=batch_size,
            drop_last=drop_last,
            num_workers=self.num_workers,
            pin_memory=device.type == "cuda",
        )

    def _moved(self, data: ImageDataset, device: torch.device) -> tuple[Tensor, Tensor]:
        assert isinstance(data.images, Tensor)
        # by identity: training and validation are rows of the same images, which go to the device once
        key = (id(data.images), device)
        if key not in self._on_device:
            self._on_device[key] = (data.images.to(device), data.labels.to(device))
        return self._on_device[key]

    def _overfits(self) -> bool:
        return self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]

    def _share(self) -> "_Share":
        kwargs = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return _Share(0, 1) if kwargs is None else _Share(kwargs["rank"], kwargs["num_replicas"])


def _warn_of_empty_classes(labels: Tensor, num_classes: int) -> None:
    empty = (labels.bincount(minlength=num_classes) == 0).nonzero().flatten().tolist()
    if empty:
        shown = ", ".join(map(str, empty[:_SHOWN])) + (", ..." if len(empty) > _SHOWN else "")
        rank_zero_warn(
            f"the training set has no images of {len(empty)} of its {num_classes} classes ({shown}), which no network "
            "can learn then; correct num_classes or the labels, unless that is meant."
        )


class _Share(NamedTuple):
    rank: int
    world_size: int
