"""Generator and discriminator made of linear layers alone."""

import math
from typing import Literal, TypeAlias

from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_choice, check_dropout, check_sizes
from lightning_advreg.networks.gan_conditional import (
    ConditionableDiscriminator,
    ConditionableGenerator,
    DiscriminatorConditioning,
    GeneratorConditioning,
)
from lightning_advreg.networks.gan_conditioning import ConditionalBatchNorm1d, LabelledSequential, LabelVector
from lightning_advreg.networks.layers import needs_bias
from lightning_advreg.networks.minibatch_std import MinibatchStandardDeviation

VectorNormName: TypeAlias = Literal["batch", "layer", "none"]
"""Which normalisation of feature vectors follows a linear layer."""

_NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": nn.Identity}


class MLPGenerator(ConditionableGenerator):
    """Linear layers with LeakyReLU(0.2) from noise to images, the generator of many first GANs on MNIST.

    BatchNorm keeps its default eps of 1e-5. Tutorials often write ``BatchNorm1d(n, 0.8)``, which sets eps, not the
    momentum, to 0.8 and so all but switches normalisation off.

    Args:
        latent_dim: The length of a noise vector.
        image_shape: Channels, height and width of an image.
        hidden: Units of each hidden layer.
        norm: The normalisation after each hidden layer.
        num_classes: The number of classes; None for an unconditional generator.
        conditioning: How the class is told, if there are classes: ``"concat"``, as a vector beside the noise, or
            ``"batch_norm"``, by the scales and shifts of conditional BatchNorm.

    Raises:
        ValueError: If a size is below 1, ``norm`` or ``conditioning`` is unknown, or conditional BatchNorm is asked for
            with another ``norm``.

    Example:
        >>> import torch
        >>> generator = MLPGenerator(latent_dim=16, hidden=(32,))
        >>> generator(torch.randn(4, generator.latent_dim)).shape
        torch.Size([4, 1, 28, 28])
        >>> generator = MLPGenerator(latent_dim=16, hidden=(32,), num_classes=10)
        >>> generator(torch.randn(2, generator.latent_dim), torch.tensor([3, 7])).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        latent_dim: int = 100,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden: tuple[int, ...] = (256, 512, 1024),
        norm: VectorNormName = "batch",
        *,
        num_classes: int | None = None,
        conditioning: GeneratorConditioning = "concat",
    ) -> None:
        super().__init__(latent_dim, image_shape, num_classes, conditioning, norm)
        check_sizes(**{f"hidden[{i}]": units for i, units in enumerate(hidden)})
        check_choice("norm", norm, _NORMS)
        self.layers = LabelledSequential()
        features = self.input_dim
        for units in hidden:
            self.layers.append(nn.Linear(features, units, bias=needs_bias(norm)))
            self.layers.append(_make_norm(norm, units, num_classes if self.conditional_norm else None))
            self.layers.append(nn.LeakyReLU(0.2))
            features = units
        self.layers.append(nn.Linear(features, math.prod(self.image_shape)))

    def draw(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Give images before the tanh, ``(N, *image_shape)``, for ``z`` of shape ``(N, input_dim)`` and labels."""
        images: Tensor = self.layers(z, y).view(-1, *self.image_shape)
        return images


class MLPDiscriminator(ConditionableDiscriminator):
    """Linear layers with LeakyReLU(0.2) and dropout from images to logits.

    Args:
        image_shape: Channels, height and width of an image.
        hidden: Units of each hidden layer.
        dropout: Probability of dropping a unit of each hidden layer, in [0, 1).
        norm: The normalisation of each hidden layer but the first. Penalties on the gradient of single images
            (WGAN-GP, R1) need one that does not mix images: any but ``"batch"``.
        minibatch_std: Whether the last layer sees how much the images of a batch differ
            (``MinibatchStandardDeviation``).
        spectral_norm: Whether the weights are divided by their largest singular values (Miyato et al. 2018).
        num_classes: The number of classes; None for an unconditional discriminator.
        conditioning: How the class is told, if there are classes: ``"concat"``, as a vector beside the pixels;
            ``"projection"``; or ``"auxiliary"``, not at all, while ``classify`` gives logits of the classes.

    Raises:
        ValueError: If a size is below 1, ``dropout`` is outside [0, 1), or ``norm`` or ``conditioning`` is unknown.

    Example:
        >>> import torch
        >>> MLPDiscriminator(hidden=(32,))(torch.rand(4, 1, 28, 28)).shape
        torch.Size([4])
        >>> discriminator = MLPDiscriminator(hidden=(32,), num_classes=10, conditioning="projection")
        >>> discriminator(torch.rand(2, 1, 28, 28), torch.tensor([3, 7])).shape
        torch.Size([2])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden: tuple[int, ...] = (512, 256),
        dropout: float = 0.3,
        *,
        norm: VectorNormName = "none",
        minibatch_std: bool = False,
        spectral_norm: bool = False,
        num_classes: int | None = None,
        conditioning: DiscriminatorConditioning = "concat",
    ) -> None:
        super().__init__(image_shape, num_classes, conditioning)
        check_sizes(**{f"hidden[{i}]": units for i, units in enumerate(hidden)})
        check_dropout(dropout=dropout)
        check_choice("norm", norm, _NORMS)
        self.layers = nn.Sequential()
        appended = num_classes if conditioning == "concat" else None
        features = math.prod(self.image_shape) + (appended or 0)
        for index, units in enumerate(hidden):
            has_norm = index > 0 and norm != "none"
            self.layers.append(nn.Linear(features, units, bias=not has_norm))
            if has_norm:
                self.layers.append(_make_norm(norm, units))
            self.layers.extend([nn.LeakyReLU(0.2), nn.Dropout(dropout)])
            features = units
        if minibatch_std:
            self.layers.append(MinibatchStandardDeviation())
        self.layers.append(nn.Linear(features + minibatch_std, 1))
        self.add_label_layers(features + minibatch_std)
        if spectral_norm:
            self.normalise_spectra()

    def make_label_input(self, num_classes: int) -> nn.Module:
        """Make what appends the class to the pixels."""
        return LabelVector(num_classes)

    def extract(self, x: Tensor) -> Tensor:
        """Give features ``(N, F)``, those of the last hidden layer, for images in [-1, 1]."""
        x = x.flatten(1)
        for layer in list(self.layers)[:-1]:
            x = layer(x)
        return x

    def judge(self, features: Tensor) -> Tensor:
        """Give logits ``(N,)`` for features ``(N, F)``, whatever the class."""
        logits: Tensor = self.layers[-1](features).squeeze(1)
        return logits


def _make_norm(norm: VectorNormName, units: int, num_classes: int | None = None) -> nn.Module:
    return _NORMS[norm](units) if num_classes is None else ConditionalBatchNorm1d(units, num_classes)
