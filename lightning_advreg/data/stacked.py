"""Stacked MNIST: a thousand modes that are known in advance."""

import torch
from torch import Tensor

from lightning_advreg.data.seeding import seeded_generator
from lightning_advreg.data.torchvision_sets import MNISTDataModule


class StackedMNISTDataModule(MNISTDataModule):
    """Three random digits of MNIST in the red, green and blue channel: 1000 classes, on which generators lose modes.

    As many images as MNIST has, 60,000 for training and 10,000 for test, drawn with replacement in a way that depends
    on nothing. Digits ``a, b, c`` make class ``100 a + 10 b + c``. A generator's modes are counted with
    :class:`~lightning_advreg.metrics.StackedFeatures` of a classifier of single digits. Source: Metz et al. 2017,
    Srivastava et al. 2017. Validation images share digits with training images. Arguments are those of
    :class:`TorchvisionDataModule`.

    Example:
        >>> data = StackedMNISTDataModule("data")
        >>> data.image_shape, data.num_classes, data.class_names[345]
        ((3, 28, 28), 1000, '345')
    """

    num_classes = 1000
    image_shape = (3, 28, 28)
    class_names = tuple(f"{label:03d}" for label in range(1000))

    def read(self, *, train: bool) -> tuple[Tensor, Tensor]:
        """Read MNIST, and stack its digits."""
        images, labels = super().read(train=train)
        # a constant: neither set may move with the user's seed
        return stack_digits(images, labels, len(images), seeded_generator(0, int(train)))


def stack_digits(images: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put three random grey images into the channels of one, and their digits into one number.

    Args:
        images: Of shape ``(N, 1, H, W)``.
        labels: Digits from 0 to 9, int64 of shape ``(N,)``.
        count: How many images to make.
        generator: A CPU generator.

    Returns:
        Images ``(count, 3, H, W)`` and labels ``(count,)`` from 0 to 999.

    Raises:
        ValueError: If images are not grey, or labels are no digits.

    Example:
        >>> x, y = torch.arange(10).view(10, 1, 1, 1), torch.arange(10)
        >>> stacked, labels = stack_digits(x, y, 1, torch.Generator().manual_seed(0))
        >>> stacked.flatten().tolist(), labels.item()
        ([4, 9, 3], 493)
    """
    if images.dim() != 4 or images.shape[1] != 1:
        raise ValueError(f"images must be grey, of shape (N, 1, H, W), got {tuple(images.shape)}.")
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"labels must be digits from 0 to 9, got {int(labels.min())} to {int(labels.max())}.")
    chosen = torch.randint(len(images), (count, 3), generator=generator)
    hundreds, tens, ones = labels[chosen].unbind(1)
    return images[chosen, 0], 100 * hundreds + 10 * tens + ones
