"""The small convolutional network of robust training on MNIST."""

from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_dropout, check_images, check_sizes
from lightning_advreg.networks.base import Network
from lightning_advreg.networks.layers import ActivationName, NormName, make_activation, make_norm, needs_bias
from lightning_advreg.networks.pixels import make_normalize
from lightning_advreg.networks.residual import make_feature_dropout


class MNISTConvNet(Network):
    """Two strided convolutions and two linear layers, for small grey images.

    With the defaults it is the network of fast adversarial training on MNIST (Wong et al., 2020), of 166,406
    parameters: 4x4 convolutions with stride 2 and 16 and 32 channels, a hidden layer of 100 units, and the logits.

    Args:
        num_classes: The number of logits.
        in_channels: Channels of the images.
        image_size: Height and width of the images, 4 or more (8 for scikit-learn's digits).
        width: Channels of the first convolution; the second has twice as many.
        hidden: Units of the hidden linear layer.
        norm: The normalisation after each convolution.
        activation: The nonlinearity.
        dropout: Probability of dropping a unit of the hidden layer, in [0, 1).
        mean: Pixel mean per channel, in [0, 1]; None for no normalisation of pixels.
        std: Pixel standard deviation per channel; None for no normalisation of pixels.
        spatial_dropout: Probability of dropping a channel after each convolution, in [0, 1) (Tompson et al. 2015).
        dropblock: Share of the positions to drop after each convolution, in squares of 7 pixels or of the map where it
            is smaller, in [0, 1) (Ghiasi et al. 2018).

    Raises:
        ValueError: If an argument is out of its range, or ``norm="instance"`` is asked of images under 8 pixels, which
            leave it a single position to normalise.

    Example:
        >>> import torch
        >>> MNISTConvNet()(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 28,
        width: int = 16,
        hidden: int = 100,
        norm: NormName = "none",
        activation: ActivationName = "relu",
        dropout: float = 0.0,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        spatial_dropout: float = 0.0,
        dropblock: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width, hidden=hidden)
        check_dropout(dropout=dropout, spatial_dropout=spatial_dropout, dropblock=dropblock)
        if image_size < 4:
            raise ValueError(f"image_size must be at least 4, got {image_size}; resize the images.")
        if norm == "instance" and image_size < 8:
            raise ValueError(
                f"norm='instance' needs image_size of at least 8, got {image_size}; use norm='layer' or 'batch'."
            )
        self.image_shape = (in_channels, image_size, image_size)
        self.normalize = make_normalize(mean, std, in_channels)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 4, stride=2, padding=1, bias=needs_bias(norm)),
            make_norm(norm, width),
            _activated(activation, spatial_dropout, dropblock),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=needs_bias(norm)),
            make_norm(norm, 2 * width),
            _activated(activation, spatial_dropout, dropblock),
        )
        self.classifier = nn.Sequential(
            nn.Linear(2 * width * (image_size // 4) ** 2, hidden),
            make_activation(activation),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Give logits.

        Args:
            x: Images in [0, 1], of shape ``(N, in_channels, image_size, image_size)``.

        Returns:
            Logits of shape ``(N, num_classes)``.

        Raises:
            ValueError: If the images have another shape.
        """
        check_images(x, self.image_shape, "set in_channels and image_size to those of the data")
        logits: Tensor = self.classifier(self.features(self.normalize(x)).flatten(1))
        return logits


def _activated(activation: ActivationName, spatial_dropout: float, dropblock: float) -> nn.Module:
    nonlinearity, drop = make_activation(activation), make_feature_dropout(spatial_dropout, dropblock)
    # as one layer, so that those after it keep their names
    return nonlinearity if isinstance(drop, nn.Identity) else nn.Sequential(nonlinearity, drop)
