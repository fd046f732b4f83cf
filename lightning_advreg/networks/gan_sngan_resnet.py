"""The residual generator and discriminator of SNGAN for 32x32 images."""

import math
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_advreg.networks.arguments import check_dropout, check_sizes
from lightning_advreg.networks.gan_conditional import (
    ConditionableDiscriminator,
    ConditionableGenerator,
    DiscriminatorConditioning,
    GeneratorConditioning,
    init_weights,
)
from lightning_advreg.networks.gan_conditioning import apply_layer
from lightning_advreg.networks.gan_sngan import smallest_map
from lightning_advreg.networks.layers import NormName, make_dropout, make_norm
from lightning_advreg.networks.minibatch_std import MinibatchStandardDeviation


class SNGANResNetGenerator(ConditionableGenerator):
    """A linear layer, three residual blocks that double the map, and a 3x3 convolution from noise to images.

    The linear layer makes a map of an eighth of the image's side (4 for 32x32). Images whose sides are no multiples of
    8, such as 28x28, begin at a quarter (7), with two blocks. Weights begin as Xavier uniform, with gain sqrt(2) in the
    residual branches and 1 elsewhere. Source: Miyato et al. (2018), table 4; conditional BatchNorm: Miyato & Koyama
    (2018).

    Args:
        latent_dim: The length of a noise vector.
        image_shape: Channels, height and width of an image; height and width multiples of 4, 16 or more.
        width: Channels of all maps; 256 in the paper.
        norm: The normalisation before each ReLU.
        num_classes: The number of classes; None for an unconditional generator.
        conditioning: How the class is told, if there are classes: ``"concat"``, as a vector beside the noise, or
            ``"batch_norm"``, by the scales and shifts of conditional BatchNorm.

    Raises:
        ValueError: If a size of the image is not a multiple of 4, or another argument is out of its range.

    Example:
        >>> import torch
        >>> generator = SNGANResNetGenerator(latent_dim=16, width=8, num_classes=10)
        >>> generator(torch.randn(2, generator.latent_dim), torch.tensor([3, 7])).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        latent_dim: int = 128,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        width: int = 256,
        norm: NormName = "batch",
        *,
        num_classes: int | None = None,
        conditioning: GeneratorConditioning = "batch_norm",
    ) -> None:
        super().__init__(latent_dim, image_shape, num_classes, conditioning, norm)
        check_sizes(width=width)
        *smallest, doublings = smallest_map(self.image_shape)
        self._map = (width, *smallest)
        self.linear = nn.Linear(self.input_dim, math.prod(self._map))
        self.blocks = nn.ModuleList(
            UpBlock(width, self.make_norm(norm, width), self.make_norm(norm, width)) for _ in range(doublings)
        )
        self.norm = self.make_norm(norm, width)
        self.conv = nn.Conv2d(width, self.image_shape[0], 3, padding=1)
        init_weights(self, nn.init.xavier_uniform_)
        _init_branches(self)

    def draw(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Give images before the tanh, ``(N, *image_shape)``, for ``z`` of shape ``(N, input_dim)`` and labels."""
        x = self.linear(z).view(-1, *self._map)
        for block in self.blocks:
            x = block(x, y)
        images: Tensor = self.conv(F.relu(apply_layer(self.norm, x, y)))
        return images


class SNGANResNetDiscriminator(ConditionableDiscriminator):
    """Four residual blocks with spectral normalisation, of which two halve the map, a sum, and a linear layer.

    The features are the last map after a ReLU, summed over positions. Weights begin as in ``SNGANResNetGenerator``.
    Source: Miyato et al. (2018), table 4; projection: Miyato & Koyama (2018).

    Args:
        image_shape: Channels, height and width of an image; height and width multiples of 4, 16 or more.
        width: Channels of all maps; 128 in the paper.
        norm: The normalisation before each ReLU; ``"none"`` in the paper.
        dropout: Probability of dropping a unit between the convolutions of a block, in [0, 1).
        spatial_dropout: Probability of dropping a channel there, in [0, 1).
        minibatch_std: Whether the last block sees how much the images of a batch differ
            (``MinibatchStandardDeviation``).
        spectral_norm: Whether the weights are divided by their largest singular values, which one power iteration in
            each training pass follows.
        num_classes: The number of classes; None for an unconditional discriminator.
        conditioning: How the class is told, if there are classes: ``"concat"``, as one more channel of the image;
            ``"projection"``; or ``"auxiliary"``, not at all, while ``classify`` gives logits of the classes.

    Raises:
        ValueError: If a size of the image is not a multiple of 4, or another argument is out of its range.

    Example:
        >>> import torch
        >>> discriminator = SNGANResNetDiscriminator(width=8, num_classes=10)
        >>> discriminator(torch.rand(2, 3, 32, 32), torch.tensor([3, 7])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        width: int = 128,
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
        check_sizes(width=width)
        check_dropout(dropout=dropout, spatial_dropout=spatial_dropout)
        smallest_map(self.image_shape)
        block = partial(DownBlock, channels=width, norm=norm, dropout=dropout, spatial_dropout=spatial_dropout)
        self.blocks = nn.Sequential(
            block(self.input_channels, halves=True, first=True), block(width, halves=True), block(width, halves=False)
        )
        if minibatch_std:
            self.blocks.append(MinibatchStandardDeviation())
        self.blocks.append(block(width + minibatch_std, halves=False))
        self.norm = make_norm(norm, width)
        self.linear = nn.Linear(width, 1)
        self.add_label_layers(width)
        init_weights(self, nn.init.xavier_uniform_)
        _init_branches(self)
        if spectral_norm:
            self.normalise_spectra()

    def extract(self, x: Tensor) -> Tensor:
        """Give features ``(N, width)``, the sum of the last map over positions, for images in [-1, 1]."""
        return F.relu(self.norm(self.blocks(x))).sum((2, 3))

    def judge(self, features: Tensor) -> Tensor:
        """Give logits ``(N,)`` for features ``(N, F)``, whatever the class."""
        logits: Tensor = self.linear(features).squeeze(1)
        return logits


class UpBlock(nn.Module):
    """A residual block that doubles the map: norm, ReLU, doubling, 3x3 convolution, norm, ReLU, 3x3 convolution.

    The shortcut is a 1x1 convolution, before the doubling: the two commute, and so it costs a quarter.

    Args:
        channels: Channels of input and output.
        norm1: The first normalisation, conditional or not.
        norm2: The second.

    Example:
        >>> import torch
        >>> UpBlock(4, nn.Identity(), nn.Identity())(torch.rand(1, 4, 6, 6)).shape
        torch.Size([1, 4, 12, 12])
    """

    def __init__(self, channels: int, norm1: nn.Module, norm2: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm1, norm2
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Give features ``(N, C, 2 H, 2 W)`` for features ``(N, C, H, W)``, and labels for conditional norms."""
        branch = self.conv1(_double(F.relu(apply_layer(self.norm1, x, y))))
        branch = self.conv2(F.relu(apply_layer(self.norm2, branch, y)))
        out: Tensor = _double(self.shortcut(x)) + branch
        return out


class DownBlock(nn.Module):
    """A residual block that may halve the map: norm, ReLU, 3x3 convolution, twice, and an average over 2x2 squares.

    The first block of a network has no norm and ReLU before its first convolution. The shortcut is a 1x1 convolution
    where the shape changes, after the average: the two commute, and so it costs a quarter.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        halves: Whether the map is halved.
        first: Whether the block sees images.
        norm: The normalisation.
        dropout: Probability of dropping a unit before the second convolution, in [0, 1).
        spatial_dropout: Probability of dropping a channel there, in [0, 1).

    Example:
        >>> import torch
        >>> DownBlock(3, 4, halves=True, first=True)(torch.rand(1, 3, 6, 6)).shape
        torch.Size([1, 4, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        halves: bool,
        first: bool = False,
        norm: NormName = "none",
        dropout: float = 0.0,
        spatial_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.first, self.halves = first, halves
        self.norm1 = nn.Identity() if first else make_norm(norm, in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.norm2 = make_norm(norm, channels)
        self.dropout = make_dropout(dropout, spatial_dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, channels, 1) if halves or in_channels != channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Give features ``(N, channels, H, W)``, halved where asked to, for features ``(N, in_channels, H, W)``."""
        branch = self.conv1(x if self.first else F.relu(self.norm1(x)))
        branch = self.conv2(self.dropout(F.relu(self.norm2(branch))))
        if self.halves:
            branch, x = F.avg_pool2d(branch, 2), F.avg_pool2d(x, 2)
        out: Tensor = self.shortcut(x) + branch
        return out


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _init_branches(network: nn.Module) -> None:
    """Draw the convolutions of residual branches with gain sqrt(2), which makes up for the ReLU before them."""
    for block in network.modules():
        if isinstance(block, UpBlock | DownBlock):
            for conv in (block.conv1, block.conv2):
                nn.init.xavier_uniform_(conv.weight, gain=math.sqrt(2))
