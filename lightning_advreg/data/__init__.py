"""DataModules of image classification: batches of (float32 images in [0, 1], int64 labels)."""

from lightning_advreg.data.arrays import ArrayDataModule
from lightning_advreg.data.augment import RandomCropFlip
from lightning_advreg.data.base import ImageDataModule
from lightning_advreg.data.digits import DigitsDataModule
from lightning_advreg.data.folders import ImageFolderDataModule
from lightning_advreg.data.resident import ResidentLoader
from lightning_advreg.data.stacked import StackedMNISTDataModule
from lightning_advreg.data.torchvision_sets import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    FashionMNISTDataModule,
    MNISTDataModule,
)

__all__ = [
    "ArrayDataModule",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MNISTDataModule",
    "RandomCropFlip",
    "ResidentLoader",
    "StackedMNISTDataModule",
]
