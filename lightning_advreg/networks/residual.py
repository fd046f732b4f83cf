"""The residual blocks that the residual networks share."""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from lightning_advreg.networks.drop_block import DropBlock
from lightning_advreg.networks.layers import (
    ActivationName,
    NormName,
    make_activation,
    make_branch_end,
    make_norm,
    needs_bias,
)


def make_drop_path(probability: float) -> nn.Module:
    """Make what drops the residual branch of an image as a whole, in training (stochastic depth, Huang et al. 2016).

    What is kept is divided by the chance to be kept, so that nothing changes in evaluation.

    Args:
        probability: The chance that an image's branch is dropped, in [0, 1).

    Returns:
        The layer; the identity for 0.

    Example:
        >>> make_drop_path(0.0), make_drop_path(0.2)
        (Identity(), StochasticDepth(p=0.2, mode=row))
    """
    if probability == 0:
        return nn.Identity()
    # a class without types, and a second to import where nobody else has yet
    from torchvision.ops import StochasticDepth

    layer: nn.Module = StochasticDepth(probability, mode="row")
    return layer


def make_feature_dropout(spatial_dropout: float, dropblock: float, block_size: int = 7) -> nn.Module:
    """Make what drops parts of feature maps ``(N, C, H, W)`` in training.

    Args:
        spatial_dropout: The chance that a channel of an image is dropped (Tompson et al. 2015), in [0, 1).
        dropblock: The share of positions that is dropped, in squares (Ghiasi et al. 2018), in [0, 1).
        block_size: The side of these squares, an odd number.

    Returns:
        The layer; the identity where both are 0.

    Example:
        >>> make_feature_dropout(0.0, 0.0), make_feature_dropout(0.2, 0.0)
        (Identity(), Dropout2d(p=0.2, inplace=False))
    """
    layers: list[nn.Module] = [nn.Dropout2d(spatial_dropout)] if spatial_dropout else []
    if dropblock:
        layers.append(DropBlock(dropblock, block_size))
    return nn.Sequential(*layers) if len(layers) > 1 else layers[0] if layers else nn.Identity()


def drop_paths(drop_path: float, blocks: int) -> Iterator[float]:
    """Give the chance to be dropped of each residual block, ``drop_path * l / L`` (Huang et al. 2016, eq. 4).

    Args:
        drop_path: That of the last block.
        blocks: The number L of blocks.

    Example:
        >>> list(drop_paths(0.2, 4))
        [0.05, 0.1, 0.15000000000000002, 0.2]
    """
    return (drop_path * (index + 1) / blocks for index in range(blocks))


def conv3x3(in_channels: int, channels: int, norm: NormName, stride: int = 1) -> nn.Conv2d:
    """Make a 3x3 convolution that keeps the size of the map, up to the stride."""
    return nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=needs_bias(norm))


def conv1x1(in_channels: int, channels: int, norm: NormName, stride: int) -> nn.Conv2d:
    """Make the 1x1 convolution of a shortcut whose shape changes."""
    return nn.Conv2d(in_channels, channels, 1, stride=stride, bias=needs_bias(norm))


class BasicBlock(nn.Module):
    """Two convolutions, each followed by normalisation, with the activation after the sum.

    Source: He et al. (2016a), figure 2. Without normalisation the branch ends in ``SkipGain``.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        norm: The normalisation.
        activation: The nonlinearity.
        drop_path: Probability of dropping the branch of an image, in [0, 1).
        spatial_dropout: Probability of dropping a channel of the output, in [0, 1).
        dropblock: Share of the output's positions to drop in squares, in [0, 1).

    Example:
        >>> import torch
        >>> BasicBlock(4, 8, stride=2, norm="batch", activation="relu")(torch.rand(1, 4, 6, 6)).shape
        torch.Size([1, 8, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        norm: NormName,
        activation: ActivationName,
        drop_path: float = 0.0,
        *,
        spatial_dropout: float = 0.0,
        dropblock: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, norm, stride)
        self.norm1 = make_norm(norm, channels)
        self.conv2 = conv3x3(channels, channels, norm)
        self.norm2 = make_norm(norm, channels)
        self.branch_end = make_branch_end(norm)
        self.drop_path = make_drop_path(drop_path)
        self.drop_features = make_feature_dropout(spatial_dropout, dropblock)
        self.activation = make_activation(activation)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(conv1x1(in_channels, channels, norm, stride), make_norm(norm, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Give features ``(N, channels, H / stride, W / stride)`` for features ``(N, in_channels, H, W)``."""
        branch = self.activation(self.norm1(self.conv1(x)))
        branch = self.drop_path(self.branch_end(self.norm2(self.conv2(branch))))
        out: Tensor = self.drop_features(self.activation(self.shortcut(x) + branch))
        return out


class PreActBlock(nn.Module):
    """Two convolutions, each preceded by normalisation and activation, with nothing after the sum.

    A shortcut that changes shape starts from the activated input; any other carries the input untouched. Sources:
    He et al. (2016b), figure 4e; dropout between the convolutions: Zagoruyko & Komodakis (2016), figure 1d. Without
    normalisation the branch ends in ``SkipGain``.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        norm: The normalisation.
        activation: The nonlinearity.
        dropout: Probability of dropping a unit between the convolutions, in [0, 1).
        drop_path: Probability of dropping the branch of an image, in [0, 1).
        spatial_dropout: Probability of dropping a channel of the output, in [0, 1).
        dropblock: Share of the output's positions to drop in squares, in [0, 1).

    Example:
        >>> import torch
        >>> PreActBlock(4, 8, stride=2, norm="batch", activation="relu")(torch.rand(1, 4, 6, 6)).shape
        torch.Size([1, 8, 3, 3])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        norm: NormName,
        activation: ActivationName,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        *,
        spatial_dropout: float = 0.0,
        dropblock: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, in_channels)
        self.conv1 = conv3x3(in_channels, channels, norm, stride)
        self.norm2 = make_norm(norm, channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv3x3(channels, channels, norm)
        self.branch_end = make_branch_end(norm)
        self.drop_path = make_drop_path(drop_path)
        self.drop_features = make_feature_dropout(spatial_dropout, dropblock)
        self.activation = make_activation(activation)
        changes_shape = stride != 1 or in_channels != channels
        self.shortcut = conv1x1(in_channels, channels, norm, stride) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        """Give features ``(N, channels, H / stride, W / stride)`` for features ``(N, in_channels, H, W)``."""
        activated = self.activation(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        branch = self.activation(self.norm2(self.conv1(activated)))
        branch = self.drop_path(self.branch_end(self.conv2(self.dropout(branch))))
        out: Tensor = self.drop_features(shortcut + branch)
        return out


def make_stages(
    make_block: Callable[[int, int, int], nn.Module], in_channels: int, widths: Sequence[int], blocks: int
) -> nn.Sequential:
    """Make the stages of a residual network; all but the first halve the size of the map.

    Args:
        make_block: Makes a block from its input channels, output channels and stride.
        in_channels: Channels that enter the first stage.
        widths: Channels of each stage.
        blocks: The number of blocks of each stage.

    Returns:
        One ``nn.Sequential`` of blocks for each stage.
    """
    stages = nn.Sequential()
    for i, width in enumerate(widths):
        stage = nn.Sequential(make_block(in_channels, width, 1 if i == 0 else 2))
        stage.extend(make_block(width, width, 1) for _ in range(blocks - 1))
        stages.append(stage)
        in_channels = width
    return stages


def init_convolutions(module: nn.Module) -> None:
    """Draw convolution weights from N(0, 2 / fan_out), He et al. (2015), and set their biases to zero.

    Args:
        module: The network, changed in place.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)
