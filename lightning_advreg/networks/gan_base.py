"""What generators and discriminators promise to the GAN module."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_advreg.networks.arguments import check_images, check_sizes, read_image_shape
from lightning_advreg.networks.base import Network


class Generator(Network, ABC):
    """A network from noise, and labels where it is conditional, to images.

    A subclass calls ``super().__init__`` and writes ``forward``, which takes standard normal noise of shape
    ``(N, latent_dim)`` and gives images of shape ``(N, *image_shape)`` in [0, 1]. One with ``num_classes`` is called
    with labels as well, ``generator(z, y)``.

    Attributes:
        latent_dim: The length of a noise vector.
        image_shape: Channels, height and width of an image.
        num_classes: The number of classes; None where it is unconditional, and called without labels.

    Args:
        latent_dim: The length of a noise vector, 1 or more.
        image_shape: Channels, height and width of an image.
        num_classes: The number of classes, 1 or more; None for an unconditional network.

    Raises:
        ValueError: If ``latent_dim``, ``num_classes`` or a size in ``image_shape`` is below 1.

    Example:
        >>> import torch
        >>> class Grey(Generator):
        ...     def forward(self, z):
        ...         return z.sigmoid().mean(1).view(-1, 1, 1, 1).expand(-1, *self.image_shape)
        >>> Grey(latent_dim=3, image_shape=(1, 4, 4))(torch.randn(2, 3)).shape
        torch.Size([2, 1, 4, 4])
    """

    latent_dim: int
    image_shape: tuple[int, int, int]
    num_classes: int | None

    def __init__(self, latent_dim: int, image_shape: Sequence[int], num_classes: int | None = None) -> None:
        super().__init__()
        check_sizes(latent_dim=latent_dim, **({} if num_classes is None else {"num_classes": num_classes}))
        self.latent_dim = latent_dim
        self.image_shape = read_image_shape(image_shape)
        self.num_classes = num_classes

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """Give images; a conditional subclass takes labels as second argument.

        Args:
            z: Standard normal noise of shape ``(N, latent_dim)``.

        Returns:
            Images of shape ``(N, *image_shape)`` in [0, 1].
        """

    def check_noise(self, z: Tensor) -> None:
        """Check the shape of noise.

        Args:
            z: Noise.

        Raises:
            ValueError: If ``z`` is not of shape ``(N, latent_dim)``.
        """
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(
                f"noise must have shape (N, {self.latent_dim}), got {tuple(z.shape)}; "
                "draw it with torch.randn(n, generator.latent_dim)."
            )

    def check_condition(self, y: Tensor | None, count: int) -> None:
        """Check that labels are given where they are needed, and there alone; see :func:`check_condition`.

        Args:
            y: Labels ``(N,)``, int64, or None.
            count: The number N of noise vectors.
        """
        check_condition(y, count, self.num_classes, "generator(z, y)")


class Discriminator(Network):
    """A network from images to one logit each: how real the image looks. As a critic, its output is the score.

    A subclass calls ``super().__init__`` and writes ``forward``, which takes images of shape ``(N, *image_shape)`` in
    [0, 1], and labels where it is conditional, and gives logits of shape ``(N,)``, without a sigmoid. Or it writes the
    two halves of it, which feature matching and auxiliary classifiers need:

    - ``features(x) -> (N, F)``, what the last layer sees,
    - ``score(features, y=None) -> (N,)``, the logits,

    and leaves ``forward(x, y) = score(features(x), y)`` as it is. One with an auxiliary classifier has besides
    ``classify(features) -> (N, num_classes)``, logits of the classes.

    Attributes:
        image_shape: Channels, height and width of an image.
        num_classes: The number of classes; None where it is unconditional, and called without labels.

    Args:
        image_shape: Channels, height and width of an image.
        num_classes: The number of classes, 1 or more; None for an unconditional network.

    Raises:
        TypeError: If the class has neither ``forward`` nor ``score``.
        ValueError: If ``num_classes`` or a size in ``image_shape`` is below 1.

    Example:
        >>> import torch
        >>> class Brightness(Discriminator):
        ...     def forward(self, x):
        ...         return x.flatten(1).mean(1)
        >>> Brightness(image_shape=(1, 4, 4))(torch.ones(2, 1, 4, 4))
        tensor([1., 1.])
    """

    image_shape: tuple[int, int, int]
    num_classes: int | None

    # declared and not defined: a subclass that writes forward alone has neither, and hasattr says so
    features: Callable[..., Tensor]
    score: Callable[..., Tensor]

    def __init__(self, image_shape: Sequence[int], num_classes: int | None = None) -> None:
        super().__init__()
        if type(self).forward is Discriminator.forward and not hasattr(type(self), "score"):
            raise TypeError(f"{type(self).__name__} is abstract; write forward, or features and score, in a subclass.")
        check_sizes(**({} if num_classes is None else {"num_classes": num_classes}))
        self.image_shape = read_image_shape(image_shape)
        self.num_classes = num_classes

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Give logits.

        Args:
            x: Images of shape ``(N, *image_shape)`` in [0, 1].
            y: Labels of shape ``(N,)``, int64 in ``[0, num_classes)``; None for an unconditional network.

        Returns:
            Logits of shape ``(N,)``.

        Raises:
            TypeError: If labels are not int64.
            ValueError: If labels are missing, not asked for, or not one per image.
        """
        self.check_condition(y, len(x))
        return self.score(self.features(x), y)

    def check_images(self, x: Tensor) -> None:
        """Check the shape of images.

        Args:
            x: Images.

        Raises:
            ValueError: If ``x`` is not of shape ``(N, *image_shape)``.
        """
        check_images(x, self.image_shape, "build generator and discriminator with the image_shape of the data")

    def check_condition(self, y: Tensor | None, count: int) -> None:
        """Check that labels are given where they are needed, and there alone; see :func:`check_condition`.

        Args:
            y: Labels ``(N,)``, int64, or None.
            count: The number N of images.
        """
        check_condition(y, count, self.num_classes, "discriminator(x, y)")


def check_condition(y: Tensor | None, count: int, num_classes: int | None, call: str) -> None:
    """Check the labels that a network of a GAN is called with, without reading their values from the device.

    Their range is checked by ``lightning_advreg.checks.check_labels``, which does wait for the device, once.

    Args:
        y: Labels, or None.
        count: How many there should be.
        num_classes: The number of classes of the network, None if it is unconditional.
        call: How a conditional one is called, for the message.

    Raises:
        TypeError: If labels are not int64.
        ValueError: If they are missing, not asked for, or of another shape than ``(count,)``.

    Example:
        >>> check_condition(None, 4, 10, "generator(z, y)")
        Traceback (most recent call last):
        ...
        ValueError: a network with num_classes=10 needs labels; call it as generator(z, y), with y int64 of shape (4,).
    """
    if num_classes is None:
        if y is not None:
            raise ValueError(
                "a network without num_classes takes no labels; build it with num_classes=..., or leave the labels out."
            )
        return
    if y is None:
        raise ValueError(
            f"a network with num_classes={num_classes} needs labels; call it as {call}, with y int64 of shape "
            f"({count},)."
        )
    if y.dtype != torch.int64:
        raise TypeError(f"labels must be int64 class indices, got {y.dtype}; convert with `y.long()`.")
    if y.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one for each row of the batch, got {tuple(y.shape)}.")


def to_unit_range(x: Tensor) -> Tensor:
    """Map any real number to (0, 1) by ``(tanh(x) + 1) / 2``, the pixel range of this library.

    Example:
        >>> import torch
        >>> to_unit_range(torch.tensor([-9.0, 0.0, 9.0])).round(decimals=4).tolist()
        [0.0, 0.5, 1.0]
    """
    return (x.tanh() + 1) / 2


def to_symmetric_range(x: Tensor) -> Tensor:
    """Map pixels in [0, 1] to [-1, 1], the range discriminators work in.

    Example:
        >>> import torch
        >>> to_symmetric_range(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [-1.0, 0.0, 1.0]
    """
    return 2 * x - 1
