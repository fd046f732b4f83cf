"""What generators and discriminators promise to the GAN module."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from lightning_advreg.networks.arguments import check_images, check_sizes, read_image_shape
from lightning_advreg.networks.base import Network


class Generator(Network, ABC):
    """A network from noise to images.

    A subclass calls ``super().__init__`` and writes ``forward``, which takes standard normal noise of shape
    ``(N, latent_dim)`` and gives images of shape ``(N, *image_shape)`` in [0, 1].

    Attributes:
        latent_dim: The length of a noise vector.
        image_shape: Channels, height and width of an image.

    Args:
        latent_dim: The length of a noise vector, 1 or more.
        image_shape: Channels, height and width of an image.

    Raises:
        ValueError: If ``latent_dim`` or a size in ``image_shape`` is below 1.

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

    def __init__(self, latent_dim: int, image_shape: Sequence[int]) -> None:
        super().__init__()
        check_sizes(latent_dim=latent_dim)
        self.latent_dim = latent_dim
        self.image_shape = read_image_shape(image_shape)

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """Give images.

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


class Discriminator(Network, ABC):
    """A network from images to one logit each: how real the image looks. As a critic, its output is the score.

    A subclass calls ``super().__init__`` and writes ``forward``, which takes images of shape ``(N, *image_shape)`` in
    [0, 1] and gives logits of shape ``(N,)``, without a sigmoid.

    Attributes:
        image_shape: Channels, height and width of an image.

    Args:
        image_shape: Channels, height and width of an image.

    Raises:
        ValueError: If a size in ``image_shape`` is below 1.

    Example:
        >>> import torch
        >>> class Brightness(Discriminator):
        ...     def forward(self, x):
        ...         return x.flatten(1).mean(1)
        >>> Brightness(image_shape=(1, 4, 4))(torch.ones(2, 1, 4, 4))
        tensor([1., 1.])
    """

    image_shape: tuple[int, int, int]

    def __init__(self, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.image_shape = read_image_shape(image_shape)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Give logits.

        Args:
            x: Images of shape ``(N, *image_shape)`` in [0, 1].

        Returns:
            Logits of shape ``(N,)``.
        """

    def check_images(self, x: Tensor) -> None:
        """Check the shape of images.

        Args:
            x: Images.

        Raises:
            ValueError: If ``x`` is not of shape ``(N, *image_shape)``.
        """
        check_images(x, self.image_shape, "build generator and discriminator with the image_shape of the data")


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
