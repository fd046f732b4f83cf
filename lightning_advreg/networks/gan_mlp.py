"""Generator and discriminator made of linear layers alone."""

import math
from typing import Literal, TypeAlias

from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_dropout, check_sizes
from lightning_advreg.networks.gan_base import Discriminator, Generator, to_symmetric_range, to_unit_range
from lightning_advreg.networks.layers import needs_bias

VectorNormName: TypeAlias = Literal["batch", "layer", "none"]
"""Which normalisation of feature vectors follows a linear layer."""

_NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


class MLPGenerator(Generator):
    """Linear layers with LeakyReLU(0.2) from noise to images, the generator of many first GANs on MNIST.

    BatchNorm keeps its default eps of 1e-5. Tutorials often write ``BatchNorm1d(n, 0.8)``, which sets eps, not the
    momentum, to 0.8 and so all but switches normalisation off.

    Args:
        latent_dim: The length of a noise vector.
        image_shape: Channels, height and width of an image.
        hidden: Units of each hidden layer.
        norm: The normalisation after each hidden layer.

    Raises:
        ValueError: If a size is below 1 or ``norm`` is unknown.

    Example:
        >>> import torch
        >>> generator = MLPGenerator(latent_dim=16, hidden=(32,))
        >>> generator(torch.randn(4, generator.latent_dim)).shape
        torch.Size([4, 1, 28, 28])
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden: tuple[int, ...] = (256, 512, 1024),
        norm: VectorNormName = "batch",
    ) -> None:
        super().__init__(latent_dim, image_shape)
        check_sizes(**{f"hidden[{i}]": units for i, units in enumerate(hidden)})
        if norm not in _NORMS:
            raise ValueError(f"norm must be one of {', '.join(_NORMS)}; got {norm!r}.")
        self.layers = nn.Sequential()
        features = latent_dim
        for units in hidden:
            self.layers.append(nn.Linear(features, units, bias=needs_bias(norm)))
            self.layers.append(_NORMS[norm](units))
            self.layers.append(nn.LeakyReLU(0.2))
            features = units
        self.layers.append(nn.Linear(features, math.prod(self.image_shape)))

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
        return to_unit_range(self.layers(z)).view(-1, *self.image_shape)


class MLPDiscriminator(Discriminator):
    """Linear layers with LeakyReLU(0.2) and dropout from images to logits.

    Args:
        image_shape: Channels, height and width of an image.
        hidden: Units of each hidden layer.
        dropout: Probability of dropping a unit of each hidden layer, in [0, 1).

    Raises:
        ValueError: If a size is below 1 or ``dropout`` is outside [0, 1).

    Example:
        >>> import torch
        >>> MLPDiscriminator(hidden=(32,))(torch.rand(4, 1, 28, 28)).shape
        torch.Size([4])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden: tuple[int, ...] = (512, 256),
        dropout: float = 0.3,
    ) -> None:
        super().__init__(image_shape)
        check_sizes(**{f"hidden[{i}]": units for i, units in enumerate(hidden)})
        check_dropout(dropout=dropout)
        self.layers = nn.Sequential()
        features = math.prod(self.image_shape)
        for units in hidden:
            self.layers.extend([nn.Linear(features, units), nn.LeakyReLU(0.2), nn.Dropout(dropout)])
            features = units
        self.layers.append(nn.Linear(features, 1))

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
        logits: Tensor = self.layers(to_symmetric_range(x).flatten(1)).squeeze(1)
        return logits
