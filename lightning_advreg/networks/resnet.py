"""ResNet-18 for small images."""

from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_dropout, check_sizes
from lightning_advreg.networks.base import Network
from lightning_advreg.networks.layers import ActivationName, NormName, make_activation, make_norm
from lightning_advreg.networks.pixels import CIFAR10_MEAN, CIFAR10_STD, make_normalize
from lightning_advreg.networks.residual import BasicBlock, conv3x3, drop_paths, init_convolutions, make_stages


class ResNet18(Network):
    """ResNet-18 with a 3x3 stem and no pooling after it, for images of about 32x32 pixels.

    The network that most CIFAR-10 results in adversarial training are given for; 11,173,962 parameters with the
    defaults. Source: He et al. (2016a). Images of any size are taken, with ``norm="instance"`` from 9x9.

    Args:
        num_classes: The number of logits.
        in_channels: Channels of the images.
        norm: The normalisation. With ``"none"`` every residual branch is scaled by a learned gain that starts at zero
            (SkipInit, De & Smith, 2020), and the convolutions have biases.
        activation: The nonlinearity.
        dropout: Probability of dropping a feature before the linear layer, in [0, 1).
        width: Channels of the stem and the first stage; the others have 2, 4 and 8 times as many.
        mean: Pixel mean per channel, in [0, 1]. None: that of CIFAR-10 for 3 channels, else no normalisation.
        std: Pixel standard deviation per channel. None: as for ``mean``.
        drop_path: Probability of dropping the last residual branch of an image, in [0, 1); that of the l-th of L
            blocks is ``drop_path * l / L`` (stochastic depth, Huang et al. 2016, eq. 4).
        spatial_dropout: Probability of dropping a channel of a block's output, in [0, 1) (Tompson et al. 2015).
        dropblock: Share of the positions of a block's output to drop, in squares of 7 pixels, in [0, 1) (Ghiasi et al.
            2018).

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> ResNet18(width=4)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        norm: NormName = "batch",
        activation: ActivationName = "relu",
        dropout: float = 0.0,
        width: int = 64,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        drop_path: float = 0.0,
        spatial_dropout: float = 0.0,
        dropblock: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
        check_dropout(dropout=dropout, drop_path=drop_path, spatial_dropout=spatial_dropout, dropblock=dropblock)
        drops = {"spatial_dropout": spatial_dropout, "dropblock": dropblock}
        self.normalize = make_normalize(mean, std, in_channels, default=(CIFAR10_MEAN, CIFAR10_STD))
        self.stem = nn.Sequential(
            conv3x3(in_channels, width, norm), make_norm(norm, width), make_activation(activation)
        )
        rates = drop_paths(drop_path, 8)
        self.stages = make_stages(
            lambda inputs, outputs, stride: BasicBlock(
                inputs, outputs, stride, norm, activation, drop_path=next(rates), **drops
            ),
            in_channels=width,
            widths=[width, 2 * width, 4 * width, 8 * width],
            blocks=2,
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(8 * width, num_classes)
        init_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Give logits.

        Args:
            x: Images in [0, 1], of shape ``(N, in_channels, H, W)``.

        Returns:
            Logits of shape ``(N, num_classes)``.
        """
        features = self.stages(self.stem(self.normalize(x))).mean((2, 3))
        logits: Tensor = self.classifier(self.dropout(features))
        return logits
