"""Wide residual networks."""

from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_dropout, check_sizes
from lightning_advreg.networks.base import Network
from lightning_advreg.networks.layers import ActivationName, NormName, make_activation, make_norm
from lightning_advreg.networks.pixels import CIFAR10_MEAN, CIFAR10_STD, make_normalize
from lightning_advreg.networks.residual import PreActBlock, conv3x3, drop_paths, init_convolutions, make_stages


class WideResNet(Network):
    """A wide residual network, WRN-depth-width, for images of about 32x32 pixels.

    WRN-28-10 has 36,479,194 parameters and WRN-34-10, the large network of TRADES and its successors, 46,160,474.
    Source: Zagoruyko & Komodakis (2016). Images of any size are taken, with ``norm="instance"`` from 5x5.

    Args:
        depth: The number of layers, ``6 n + 4`` for n blocks in each of the three stages: 10, 16, 22, 28, 34, ….
        width: The widening factor; the stages have 16, 32 and 64 times as many channels.
        num_classes: The number of logits.
        in_channels: Channels of the images.
        norm: The normalisation. With ``"none"`` every residual branch is scaled by a learned gain that starts at zero
            (SkipInit, De & Smith, 2020), and the convolutions have biases.
        activation: The nonlinearity.
        dropout: Probability of dropping a unit between the two convolutions of each block, in [0, 1).
        mean: Pixel mean per channel, in [0, 1]. None: that of CIFAR-10 for 3 channels, else no normalisation.
        std: Pixel standard deviation per channel. None: as for ``mean``.
        drop_path: Probability of dropping the last residual branch of an image, in [0, 1); that of the l-th of L
            blocks is ``drop_path * l / L`` (stochastic depth, Huang et al. 2016, eq. 4).
        spatial_dropout: Probability of dropping a channel of a block's output, in [0, 1) (Tompson et al. 2015).
        dropblock: Share of the positions of a block's output to drop, in squares of 7 pixels, in [0, 1) (Ghiasi et al.
            2018).

    Raises:
        ValueError: If ``depth`` is not ``6 n + 4``, or another argument is out of its range.

    Example:
        >>> import torch
        >>> WideResNet(depth=10, width=1)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        num_classes: int = 10,
        in_channels: int = 3,
        norm: NormName = "batch",
        activation: ActivationName = "relu",
        dropout: float = 0.0,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        drop_path: float = 0.0,
        spatial_dropout: float = 0.0,
        dropblock: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(depth=depth, width=width, num_classes=num_classes, in_channels=in_channels)
        check_dropout(dropout=dropout, drop_path=drop_path, spatial_dropout=spatial_dropout, dropblock=dropblock)
        drops = {"spatial_dropout": spatial_dropout, "dropblock": dropblock}
        if depth < 10 or (depth - 4) % 6 != 0:
            raise ValueError(f"depth must be 6 n + 4 with n of at least 1 (10, 16, 22, 28, 34, ...), got {depth}.")
        self.normalize = make_normalize(mean, std, in_channels, default=(CIFAR10_MEAN, CIFAR10_STD))
        self.stem = conv3x3(in_channels, 16, norm)
        rates = drop_paths(drop_path, (depth - 4) // 2)
        self.stages = make_stages(
            lambda inputs, outputs, stride: PreActBlock(
                inputs, outputs, stride, norm, activation, dropout, next(rates), **drops
            ),
            in_channels=16,
            widths=[16 * width, 32 * width, 64 * width],
            blocks=(depth - 4) // 6,
        )
        self.last = nn.Sequential(make_norm(norm, 64 * width), make_activation(activation))
        self.classifier = nn.Linear(64 * width, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits.

        Args:
            x: Images in [0, 1], of shape ``(N, in_channels, H, W)``.

        Returns:
            Logits of shape ``(N, num_classes)``.
        """
        features = self.last(self.stages(self.stem(self.normalize(x)))).mean((2, 3))
        logits: Tensor = self.classifier(features)
        return logits
