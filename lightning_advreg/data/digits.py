"""The handwritten digits that come with scikit-learn: 8x8, no download."""

import torch
from torch import Tensor

from lightning_advreg.data.augment import RandomCropFlip
from lightning_advreg.data.base import ImageDataModule
from lightning_advreg.data.class_names import DIGITS
from lightning_advreg.data.seeding import seeded_generator
from lightning_advreg.data.splits import stratified_order

_TEST_COUNT = 360
"""About 20 % of the 1797 images."""


class DigitsDataModule(ImageDataModule):
    """The 1797 handwritten digits of ``sklearn.datasets.load_digits``, gray, 8x8, without any download.

    The set has no official split: a stratified choice of 360 images, the same for every ``seed``, is the test set.
    Gray values 0 to 16 are stored as ``round(v * 255 / 16)``. Source: Alpaydin and Kaynak, 1998, "Optical Recognition
    of Handwritten Digits", UCI. ``augment=True`` shifts by up to a pixel, without flips. Arguments are those of
    :class:`ImageDataModule`.

    Example:
        >>> data = DigitsDataModule(batch_size=32)
        >>> x, y = next(iter(data.train_dataloader()))
        >>> x.shape, y.dtype, data.num_classes
        (torch.Size([32, 1, 8, 8]), torch.int64, 10)
    """

    num_classes = 10
    image_shape = (1, 8, 8)
    class_names = DIGITS
    augmentation = RandomCropFlip(padding=1, flip=False)

    def read(self, *, train: bool) -> tuple[Tensor, Tensor]:
        """Read the 1437 images for training, or the 360 for test, as uint8."""
        from sklearn.datasets import load_digits

        values, targets = load_digits(return_X_y=True)
        images = torch.from_numpy(values).mul(255 / 16).round().to(torch.uint8).view(-1, *self.image_shape)
        labels = torch.from_numpy(targets).to(torch.int64)
        # a constant: the test set must not move with the user's seed
        order = stratified_order(labels, seeded_generator(0))
        rows = order[_TEST_COUNT:] if train else order[:_TEST_COUNT]
        rows = rows.sort().values
        return images[rows], labels[rows]
