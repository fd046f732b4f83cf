"""The convolutional generator and discriminator of SNGAN, without residual connections."""

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
from lightning_advreg.networks.layers import NormName, make_dropout, make_norm, needs_bias
from lightning_advreg.networks.minibatch_std import MinibatchStandardDeviation


class SNGANGenerator(ConditionableGenerator):
    """A linear layer and three transposed 4x4 convolutions of stride 2 from noise to images.

    The linear layer makes a map of an eighth of the image's side (4 for 32x32); the transposed convolutions, with
    normalisation and ReLU before each, double it and halve the channels; a 3x3 convolution makes the image. Images
    whose sides are no multiples of 8, such as 28x28, begin at a quarter (7), with two transposed convolutions. Weights
    begin as N(0, 0.02). Source: Miyato et al. (2018), table 3; the normalisation and ReLU after the linear layer are
    those of DCGAN, without which it and the first convolution would be one linear map.

    Args:
        latent_dim: The length of a noise vector.
        image_shape: Channels, height and width of an image; height and width multiples of 4, 16 or more.
        width: Channels of the smallest map, a multiple of 8; 512 in the paper.
        norm: The normalisation before each convolution.
        num_classes: The number of classes; None for an unconditional generator.
        conditioning: How the class is told, if there are classes: ``"concat"``, as a vector beside the noise, or
            ``"batch_norm"``, by the scales and shifts of conditional BatchNorm.

    Raises:
        ValueError: If a size of the image is not a multiple of 4, or ``width`` not one of 8, or another argument is out
            of its range.

    Example:
        >>> import torch
        >>> generator = SNGANGenerator(latent_dim=16, width=16, num_classes=10)
        >>> generator(torch.randn(2, generator.latent_dim), torch.tensor([3, 7])).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        latent_dim: int = 128,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        width: int = 512,
        norm: NormName = "batch",
        *,
        num_classes: int | None = None,
        conditioning: GeneratorConditioning = "batch_norm",
    ) -> None:
        super().__init__(latent_dim, image_shape, num_classes, conditioning, norm)
        check_width(width)
        *smallest, halvings = smallest_map(self.image_shape)
        self.linear = nn.Linear(self.input_dim, width * smallest[0] * smallest[1])
        self.layers = LabelledSequential(nn.Unflatten(1, (width, *smallest)), self.make_norm(norm, width), nn.ReLU())
        for channels in (width // 2, width // 4, width // 8)[:halvings]:
            self.layers.extend(
                [
                    nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1, bias=needs_bias(norm)),
                    self.make_norm(norm, channels),
                    nn.ReLU(),
                ]
            )
        self.layers.append(nn.Conv2d(width // 2**halvings, self.image_shape[0], 3, padding=1))
        init_weights(self, partial(nn.init.normal_, std=0.02))

    def draw(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Give images before the tanh, ``(N, *image_shape)``, for ``z`` of shape ``(N, input_dim)`` and labels."""
        images: Tensor = self.layers(self.linear(z), y)
        return images


class SNGANDiscriminator(ConditionableDiscriminator):
    """Seven convolutions with LeakyReLU(0.1) and spectral normalisation, and a linear layer, from images to logits.

    3x3 convolutions double the channels, from an eighth of ``width`` to ``width``; between them 4x4 convolutions of
    stride 2 halve the map. For 32x32 and 512: 64-64-128-128-256-256-512 channels, and 4x4x512 features. Images whose
    sides are no multiples of 8, such as 28x28, are halved twice, by five convolutions that begin with a quarter of
    ``width``. Weights begin as N(0, 0.02). Source: Miyato et al. (2018), table 3. With the generator, a step of both
    costs about 2.6 GFLOP for each image of 32x32.

    Args:
        image_shape: Channels, height and width of an image; height and width multiples of 4, 16 or more.
        width: Channels of the smallest map, a multiple of 8; 512 in the paper.
        norm: The normalisation after each convolution but the first; ``"none"`` in the paper.
        dropout: Probability of dropping a unit after each activation, in [0, 1).
        spatial_dropout: Probability of dropping a channel after each activation, in [0, 1).
        minibatch_std: Whether the last convolution sees how much the images of a batch differ
            (``MinibatchStandardDeviation``).
        spectral_norm: Whether the weights are divided by their largest singular values, which one power iteration in
            each training pass follows.
        num_classes: The number of classes; None for an unconditional discriminator.
        conditioning: How the class is told, if there are classes: ``"concat"``, as one more channel of the image;
            ``"projection"``; or ``"auxiliary"``, not at all, while ``classify`` gives logits of the classes.

    Raises:
        ValueError: If a size of the image is not a multiple of 4, or ``width`` not one of 8, or another argument is out
            of its range.

    Example:
        >>> import torch
        >>> discriminator = SNGANDiscriminator(width=16, num_classes=10)
        >>> discriminator(torch.rand(2, 3, 32, 32), torch.tensor([3, 7])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        width: int = 512,
        norm: NormName = "none",
        dropout: float = 0.0,
        *,
        spatial_dropout: float = 0.0,
        minibatch_std: bool = False,
        spectral_norm: bool = True,
        num_classes: int | None = None,
        conditioning: DiscriminatorConditioning = "projection",
    ) -> None:
        super().__init__(image_shape, num_classes, conditioning)
        check_width(width)
        check_dropout(dropout=dropout, spatial_dropout=spatial_dropout)
        *smallest, halvings = smallest_map(self.image_shape)
        self.layers = nn.Sequential(nn.Conv2d(self.input_channels, width // 2**halvings, 3, padding=1))
        for channels in (width // 8, width // 4, width // 2)[-halvings:]:
            last = channels == width // 2
            self.layers.extend(
                [
                    nn.LeakyReLU(0.1),
                    make_dropout(dropout, spatial_dropout),
                    nn.Conv2d(channels, channels, 4, stride=2, padding=1, bias=needs_bias(norm)),
                    make_norm(norm, channels),
                    nn.LeakyReLU(0.1),
                    make_dropout(dropout, spatial_dropout),
                    *([MinibatchStandardDeviation()] if last and minibatch_std else []),
                    nn.Conv2d(channels + (last and minibatch_std), 2 * channels, 3, padding=1, bias=needs_bias(norm)),
                    make_norm(norm, 2 * channels),
                ]
            )
        self.layers.extend([nn.LeakyReLU(0.1), make_dropout(dropout, spatial_dropout), nn.Flatten()])
        features = width * smallest[0] * smallest[1]
        self.linear = nn.Linear(features, 1)
        self.add_label_layers(features)
        init_weights(self, partial(nn.init.normal_, std=0.02))
        if spectral_norm:
            self.normalise_spectra()

    def extract(self, x: Tensor) -> Tensor:
        """Give features ``(N, F)``, the last map laid out flat, for images in [-1, 1]."""
        features: Tensor = self.layers(x)
        return features

    def judge(self, features: Tensor) -> Tensor:
        """Give logits ``(N,)`` for features ``(N, F)``, whatever the class."""
        logits: Tensor = self.linear(features).squeeze(1)
        return logits


def check_width(width: int) -> None:
    """Check a number of channels that is halved three times.

    Raises:
        ValueError: If it is not a multiple of 8.

    Example:
        >>> check_width(100)
        Traceback (most recent call last):
        ...
        ValueError: width must be a multiple of 8, since it is halved three times; got 100, take 104.
    """
    check_sizes(width=width)
    if width % 8:
        raise ValueError(
            f"width must be a multiple of 8, since it is halved three times; got {width}, take {width + -width % 8}."
        )


def smallest_map(image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Give height and width of an image after its halvings, and how many these are: 3, or 2 for sides such as 28.

    Raises:
        ValueError: If a side is not a multiple of 4, or below 16.

    Example:
        >>> smallest_map((3, 32, 32)), smallest_map((1, 28, 28))
        ((4, 4, 3), (7, 7, 2))
    """
    _, height, width = image_shape
    if height % 4 or width % 4 or min(height, width) < 16:
        raise ValueError(
            "image_shape must have height and width that are multiples of 4, 16 or more, such as 28, 32 or 48; got "
            f"{image_shape}. Pad or resize the images."
        )
    halvings = 2 if height % 8 or width % 8 else 3
    return height // 2**halvings, width // 2**halvings, halvings
