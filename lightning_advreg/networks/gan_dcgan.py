"""Generator and discriminator of DCGAN."""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_dropout, check_sizes
from lightning_advreg.networks.gan_base import Discriminator, Generator, to_symmetric_range, to_unit_range
from lightning_advreg.networks.layers import ActivationName, NormName, make_activation, make_norm, needs_bias

SMALLEST_MAP = 4
"""Side of the smallest feature map: halving stops before it would fall below this."""


class DCGANGenerator(Generator):
    """Transposed convolutions from noise to images.

    Noise becomes a small map, which 4x4 transposed convolutions of stride 2 double in size until the image is reached,
    halving the channels each time. The small map is found by halving the side while it is even and stays 4 or more:
    28 = 7 * 2 * 2, 32 = 4 * 2 * 2 * 2. Source: Radford et al. (2016), with pixels in [0, 1] by ``(tanh + 1) / 2``.

    Args:
        latent_dim: The length of a noise vector.
        image_shape: Channels, height and width of an image; height and width equal, a multiple of 4, 8 or more.
        width: Channels before the last layer; each earlier layer has twice as many.
        norm: The normalisation of each layer but the last.
        activation: The nonlinearity of each layer but the last.

    Raises:
        ValueError: If the image is not square, its side is not a multiple of 4 of at least 8, or another argument is
            out of its range.

    Example:
        >>> import torch
        >>> generator = DCGANGenerator(latent_dim=16, width=4)
        >>> generator(torch.randn(2, generator.latent_dim)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        width: int = 64,
        norm: NormName = "batch",
        activation: ActivationName = "relu",
    ) -> None:
        super().__init__(latent_dim, image_shape)
        check_sizes(width=width)
        smallest, doublings = _halve(self.image_shape)
        channels = width * 2 ** (doublings - 1)
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(latent_dim, channels, smallest, bias=needs_bias(norm)),
            make_norm(norm, channels),
            make_activation(activation),
        )
        for _ in range(doublings - 1):
            self.layers.extend(
                [
                    nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1, bias=needs_bias(norm)),
                    make_norm(norm, channels // 2),
                    make_activation(activation),
                ]
            )
            channels //= 2
        self.layers.append(nn.ConvTranspose2d(channels, self.image_shape[0], 4, stride=2, padding=1))
        _init_dcgan(self)

    def forward(self, z: Tensor) -> Tensor:
        """Give images.

        Args:
            z: Standard normal noise of shape ``(N, latent_dim)``.

        Returns:
            Images of shape ``(N, *image_shape)`` in [0, 1].

        Raises:
            ValueError: If ``z`` has another shape.
        """
        self.check_noise(z)
        return to_unit_range(self.layers(z[:, :, None, None]))


class DCGANDiscriminator(Discriminator):
    """Strided convolutions from images to logits, the mirror image of ``DCGANGenerator``.

    4x4 convolutions of stride 2 with LeakyReLU(0.2) halve the map and double the channels; the last convolution covers
    what is left. The first layer has no normalisation. Source: Radford et al. (2016).

    Args:
        image_shape: Channels, height and width of an image; height and width equal, a multiple of 4, 8 or more.
        width: Channels of the first layer; each later layer has twice as many.
        norm: The normalisation of each layer but the first and the last. Penalties on the gradient of single images
            (WGAN-GP, R1) need one that does not mix images: any but ``"batch"``.
        dropout: Probability of dropping a unit after each activation, in [0, 1).

    Raises:
        ValueError: If the image is not square, its side is not a multiple of 4 of at least 8, or another argument is
            out of its range.

    Example:
        >>> import torch
        >>> DCGANDiscriminator(width=4)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        width: int = 64,
        norm: NormName = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(image_shape)
        check_sizes(width=width)
        check_dropout(dropout=dropout)
        smallest, halvings = _halve(self.image_shape)
        self.layers = nn.Sequential(
            nn.Conv2d(self.image_shape[0], width, 4, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Dropout(dropout)
        )
        for _ in range(halvings - 1):
            self.layers.extend(
                [
                    nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=needs_bias(norm)),
                    make_norm(norm, 2 * width),
                    nn.LeakyReLU(0.2),
                    nn.Dropout(dropout),
                ]
            )
            width *= 2
        self.layers.append(nn.Conv2d(width, 1, smallest))
        _init_dcgan(self)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits.

        Args:
            x: Images of shape ``(N, *image_shape)`` in [0, 1].

        Returns:
            Logits of shape ``(N,)``.

        Raises:
            ValueError: If ``x`` has another shape.
        """
        self.check_images(x)
        logits: Tensor = self.layers(to_symmetric_range(x)).flatten()
        return logits


def _halve(image_shape: Sequence[int]) -> tuple[int, int]:
    """Give the side of the smallest feature map and how many times the image's side is halved to reach it."""
    _, height, width = image_shape
    if height != width or height % 4 != 0 or height < 2 * SMALLEST_MAP:
        raise ValueError(
            f"image_shape must have equal height and width, a multiple of 4 of at least {2 * SMALLEST_MAP}, such as "
            f"28 or 32; got {tuple(image_shape)}. Pad or resize the images."
        )
    side, halvings = height, 0
    while side % 2 == 0 and side // 2 >= SMALLEST_MAP:
        side //= 2
        halvings += 1
    return side, halvings


def _init_dcgan(module: nn.Module) -> None:
    """Draw convolution weights from N(0, 0.02) and norm scales from N(1, 0.02); all biases and shifts are zero."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(child.weight, 0.0, 0.02)
        elif isinstance(child, nn.BatchNorm2d | nn.InstanceNorm2d | nn.GroupNorm):
            nn.init.normal_(child.weight, 1.0, 0.02)
        else:
            continue
        if child.bias is not None:
            nn.init.zeros_(child.bias)
