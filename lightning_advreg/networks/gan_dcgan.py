"""Generator and discriminator of DCGAN."""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_dropout, check_sizes
from lightning_advreg.networks.gan_conditional import (
    ConditionableDiscriminator,
    ConditionableGenerator,
    DiscriminatorConditioning,
    GeneratorConditioning,
    init_weights,
)
from lightning_advreg.networks.gan_conditioning import LabelledSequential
from lightning_advreg.networks.layers import (
    ActivationName,
    NormName,
    make_activation,
    make_dropout,
    make_norm,
    needs_bias,
)
from lightning_advreg.networks.minibatch_std import MinibatchStandardDeviation

SMALLEST_MAP = 4
"""Side of the smallest feature map: halving stops before it would fall below this."""


class DCGANGenerator(ConditionableGenerator):
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
        num_classes: The number of classes; None for an unconditional generator.
        conditioning: How the class is told, if there are classes: ``"concat"``, as a vector beside the noise, or
            ``"batch_norm"``, by the scales and shifts of conditional BatchNorm.

    Raises:
        ValueError: If the image is not square, its side is not a multiple of 4 of at least 8, or another argument is
            out of its range.

    Example:
        >>> import torch
        >>> generator = DCGANGenerator(latent_dim=16, width=4)
        >>> generator(torch.randn(2, generator.latent_dim)).shape
        torch.Size([2, 1, 28, 28])
        >>> generator = DCGANGenerator(latent_dim=16, width=4, num_classes=10)
        >>> generator(torch.randn(2, generator.latent_dim), torch.tensor([3, 7])).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        width: int = 64,
        norm: NormName = "batch",
        activation: ActivationName = "relu",
        *,
        num_classes: int | None = None,
        conditioning: GeneratorConditioning = "concat",
    ) -> None:
        super().__init__(latent_dim, image_shape, num_classes, conditioning, norm)
        check_sizes(width=width)
        smallest, doublings = _halve(self.image_shape)
        channels = width * 2 ** (doublings - 1)
        self.layers = LabelledSequential(
            nn.ConvTranspose2d(self.input_dim, channels, smallest, bias=needs_bias(norm)),
            self.make_norm(norm, channels),
            make_activation(activation),
        )
        for _ in range(doublings - 1):
            self.layers.extend(
                [
                    nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1, bias=needs_bias(norm)),
                    self.make_norm(norm, channels // 2),
                    make_activation(activation),
                ]
            )
            channels //= 2
        self.layers.append(nn.ConvTranspose2d(channels, self.image_shape[0], 4, stride=2, padding=1))
        _init_dcgan(self)

    def draw(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Give images before the tanh, ``(N, *image_shape)``, for ``z`` of shape ``(N, input_dim)`` and labels."""
        images: Tensor = self.layers(z[:, :, None, None], y)
        return images


class DCGANDiscriminator(ConditionableDiscriminator):
    """Strided convolutions from images to logits, the mirror image of ``DCGANGenerator``.

    4x4 convolutions of stride 2 with LeakyReLU(0.2) halve the map and double the channels; the last convolution covers
    what is left. The first layer has no normalisation. Source: Radford et al. (2016).

    Args:
        image_shape: Channels, height and width of an image; height and width equal, a multiple of 4, 8 or more.
        width: Channels of the first layer; each later layer has twice as many.
        norm: The normalisation of each layer but the first and the last. Penalties on the gradient of single images
            (WGAN-GP, R1) need one that does not mix images: any but ``"batch"``.
        dropout: Probability of dropping a unit after each activation, in [0, 1).
        spatial_dropout: Probability of dropping a channel after each activation, in [0, 1).
        minibatch_std: Whether the last layer sees how much the images of a batch differ
            (``MinibatchStandardDeviation``).
        spectral_norm: Whether the weights are divided by their largest singular values (Miyato et al. 2018).
        num_classes: The number of classes; None for an unconditional discriminator.
        conditioning: How the class is told, if there are classes: ``"concat"``, as one more channel of the image;
            ``"projection"``; or ``"auxiliary"``, not at all, while ``classify`` gives logits of the classes.

    Raises:
        ValueError: If the image is not square, its side is not a multiple of 4 of at least 8, or another argument is
            out of its range.

    Example:
        >>> import torch
        >>> DCGANDiscriminator(width=4)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2])
        >>> discriminator = DCGANDiscriminator(width=4, num_classes=10, conditioning="auxiliary")
        >>> discriminator.classify(discriminator.features(torch.rand(2, 1, 28, 28))).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        width: int = 64,
        norm: NormName = "batch",
        dropout: float = 0.0,
        *,
        spatial_dropout: float = 0.0,
        minibatch_std: bool = False,
        spectral_norm: bool = False,
        num_classes: int | None = None,
        conditioning: DiscriminatorConditioning = "concat",
    ) -> None:
        super().__init__(image_shape, num_classes, conditioning)
        check_sizes(width=width)
        check_dropout(dropout=dropout, spatial_dropout=spatial_dropout)
        self._smallest, halvings = _halve(self.image_shape)
        self.layers = nn.Sequential(
            nn.Conv2d(self.input_channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            make_dropout(dropout, spatial_dropout),
        )
        for _ in range(halvings - 1):
            self.layers.extend(
                [
                    nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=needs_bias(norm)),
                    make_norm(norm, 2 * width),
                    nn.LeakyReLU(0.2),
                    make_dropout(dropout, spatial_dropout),
                ]
            )
            width *= 2
        if minibatch_std:
            self.layers.append(MinibatchStandardDeviation())
        self.layers.append(nn.Conv2d(width + minibatch_std, 1, self._smallest))
        self.add_label_layers((width + minibatch_std) * self._smallest**2)
        _init_dcgan(self)
        if spectral_norm:
            self.normalise_spectra()

    def extract(self, x: Tensor) -> Tensor:
        """Give features ``(N, F)``, the last map laid out flat, for images in [-1, 1]."""
        for layer in list(self.layers)[:-1]:
            x = layer(x)
        return x.flatten(1)

    def judge(self, features: Tensor) -> Tensor:
        """Give logits ``(N,)`` for features ``(N, F)``, whatever the class."""
        logits: Tensor = self.layers[-1](features.unflatten(1, (-1, self._smallest, self._smallest)))
        return logits.flatten()


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


def _init_dcgan(network: nn.Module) -> None:
    """Draw weights from N(0, 0.02) and norm scales from N(1, 0.02); all biases and shifts are zero."""
    init_weights(network, partial(nn.init.normal_, std=0.02))
    for child in network.modules():
        if isinstance(child, nn.BatchNorm2d | nn.InstanceNorm2d | nn.GroupNorm) and child.affine:
            nn.init.normal_(child.weight, 1.0, 0.02)
