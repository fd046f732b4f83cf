"""The frames of generators and discriminators that may be conditional."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lightning_advreg.networks.arguments import check_choice
from lightning_advreg.networks.gan_base import Discriminator, Generator, to_symmetric_range, to_unit_range
from lightning_advreg.networks.gan_conditioning import ConditionalBatchNorm2d, LabelChannel, LabelVector
from lightning_advreg.networks.layers import NormName, make_norm
from lightning_advreg.networks.parametrized import PicklesParametrizations

GeneratorConditioning: TypeAlias = Literal["concat", "batch_norm"]
"""How a generator is told the class.

``"concat"``: a learned vector of the class, as long as there are classes, is appended to the noise (Mirza & Osindero
2014). ``"batch_norm"``: each BatchNorm has a scale and a shift for each class (Miyato & Koyama 2018).
"""

DiscriminatorConditioning: TypeAlias = Literal["concat", "projection", "auxiliary"]
"""How a discriminator is told the class.

``"concat"``: a learned picture of the class is one more input channel, in networks of linear layers a learned vector
(Mirza & Osindero 2014). ``"projection"``: the logit is ``psi(phi(x)) + <embed(y), phi(x)>`` (Miyato & Koyama 2018,
equation 3). ``"auxiliary"``: the logit does not depend on the class, and ``classify`` gives logits of the classes
(Odena et al. 2017).
"""


class ConditionableGenerator(Generator):
    """The frame of generators that may be conditional; a subclass writes ``draw``.

    Args:
        latent_dim: The length of a noise vector.
        image_shape: Channels, height and width of an image.
        num_classes: The number of classes; None for an unconditional network.
        conditioning: How the class is told, if there are classes; see ``GeneratorConditioning``.
        norm: The normalisation of the network.

    Attributes:
        input_dim: The length of what the first layer sees: noise, and the vector of the class where it is appended.

    Raises:
        ValueError: If ``conditioning`` is unknown, or ``"batch_norm"`` while ``norm`` is another.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: Sequence[int],
        num_classes: int | None,
        conditioning: GeneratorConditioning,
        norm: str,
    ) -> None:
        super().__init__(latent_dim, image_shape, num_classes)
        check_choice("conditioning", conditioning, get_args(GeneratorConditioning))
        self.conditional_norm = num_classes is not None and conditioning == "batch_norm"
        if self.conditional_norm and norm != "batch":
            raise ValueError(
                f"conditioning='batch_norm' needs norm='batch', got norm={norm!r}; with other norms, tell the class by "
                "conditioning='concat'."
            )
        appended = num_classes if conditioning == "concat" else None
        self.label_input = None if appended is None else LabelVector(appended)
        self.input_dim = latent_dim + (appended or 0)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Give images.

        Args:
            z: Standard normal noise of shape ``(N, latent_dim)``.
            y: Labels of shape ``(N,)``, int64 in ``[0, num_classes)``; None for an unconditional network.

        Returns:
            Images of shape ``(N, *image_shape)`` in [0, 1].

        Raises:
            TypeError: If labels are not int64.
            ValueError: If ``z`` has another shape, or labels are missing, not asked for, or not one per noise vector.
        """
        self.check_noise(z)
        self.check_condition(y, len(z))
        return to_unit_range(self.draw(z if self.label_input is None else self.label_input(z, y), y))

    @abstractmethod
    def draw(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Give images before the tanh, ``(N, *image_shape)``, for ``z`` of shape ``(N, input_dim)`` and labels."""

    def make_norm(self, norm: NormName, channels: int) -> nn.Module:
        """Make a normalisation layer for maps, conditional where the network is so."""
        if self.conditional_norm and self.num_classes is not None:
            return ConditionalBatchNorm2d(channels, self.num_classes)
        return make_norm(norm, channels)


class ConditionableDiscriminator(PicklesParametrizations, Discriminator, ABC):
    """The frame of discriminators that may be conditional; a subclass writes ``extract`` and ``judge``.

    Its features may need the class, where that is an input: ``features(x, y)``.

    Args:
        image_shape: Channels, height and width of an image.
        num_classes: The number of classes; None for an unconditional network.
        conditioning: How the class is told, if there are classes; see ``DiscriminatorConditioning``.

    Raises:
        ValueError: If ``conditioning`` is unknown.
    """

    def __init__(
        self, image_shape: Sequence[int], num_classes: int | None, conditioning: DiscriminatorConditioning
    ) -> None:
        super().__init__(image_shape, num_classes)
        check_choice("conditioning", conditioning, get_args(DiscriminatorConditioning))
        self.conditioning = conditioning
        appended = num_classes if conditioning == "concat" else None
        self.label_input = None if appended is None else self.make_label_input(appended)
        self.label_projection: nn.Embedding | None = None

    def make_label_input(self, num_classes: int) -> nn.Module:
        """Make what appends the class to images."""
        return LabelChannel(num_classes, self.image_shape[1:])

    @property
    def input_channels(self) -> int:
        """The number of channels that the first convolution sees."""
        return self.image_shape[0] + (self.label_input is not None)

    def add_label_layers(self, features: int) -> None:
        """Make the layers that stand beside the last one: the embeddings of the classes, or the classifier.

        Args:
            features: The number F of features that the last layer sees.
        """
        if self.num_classes is None:
            return
        if self.conditioning == "projection":
            self.label_projection = nn.Embedding(self.num_classes, features)
            nn.init.xavier_uniform_(self.label_projection.weight)
        elif self.conditioning == "auxiliary":
            # nothing of this name elsewhere: hasattr tells which discriminators classify
            self.classify = nn.Linear(features, self.num_classes)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Give logits.

        Args:
            x: Images of shape ``(N, *image_shape)`` in [0, 1].
            y: Labels of shape ``(N,)``, int64 in ``[0, num_classes)``; None for an unconditional network.

        Returns:
            Logits of shape ``(N,)``.

        Raises:
            TypeError: If labels are not int64.
            ValueError: If ``x`` has another shape, or labels are missing, not asked for, or not one per image.
        """
        self.check_condition(y, len(x))
        return self.score(self.features(x, y), y)

    def features(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Give what the last layer sees.

        Args:
            x: Images of shape ``(N, *image_shape)`` in [0, 1].
            y: Labels, read with ``conditioning="concat"`` alone, where the class is an input.

        Returns:
            Features of shape ``(N, F)``.
        """
        self.check_images(x)
        x = to_symmetric_range(x)
        if self.label_input is not None:
            self.check_condition(y, len(x))
            x = self.label_input(x, y)
        return self.extract(x)

    def score(self, features: Tensor, y: Tensor | None = None) -> Tensor:
        """Give logits ``(N,)`` for features ``(N, F)``, and labels ``(N,)`` where the network is conditional."""
        self.check_condition(y, len(features))
        logits = self.judge(features)
        if self.label_projection is None:
            return logits
        return logits + (self.label_projection(y) * features).sum(1)

    def normalise_spectra(self) -> None:
        """Divide the weights of all layers by their largest singular values from now on (Miyato et al. 2018).

        One power iteration per pass in training mode follows these values; in evaluation they stay. What tells the
        class at the input is left out, since the slope of the network in the image does not depend on it.
        """
        for layer in weighted_layers(self):
            spectral_norm(layer)

    @abstractmethod
    def extract(self, x: Tensor) -> Tensor:
        """Give features ``(N, F)`` for images in [-1, 1], with what tells the class appended where it is an input."""

    @abstractmethod
    def judge(self, features: Tensor) -> Tensor:
        """Give logits ``(N,)`` for features ``(N, F)``, whatever the class."""


def weighted_layers(network: nn.Module) -> list[nn.Module]:
    """Give the layers whose weights meet features: all with a kernel, a matrix, or embeddings at the last layer.

    Args:
        network: A generator or a discriminator.

    Returns:
        The layers, without what tells the class at the input.
    """
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)
    named = network.named_modules()
    return [layer for name, layer in named if isinstance(layer, kinds) and not name.startswith("label_input")]


def init_weights(network: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
    """Draw the weights of a network anew, and set the biases beside them to zero.

    Args:
        network: A generator or a discriminator, or a part of it.
        draw: What fills a tensor, such as ``nn.init.xavier_uniform_``.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> init_weights(layer, nn.init.ones_)
        >>> layer.weight.sum().item(), layer.bias.sum().item()
        (6.0, 0.0)
    """
    for layer in weighted_layers(network):
        draw(layer.get_parameter("weight"))
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.get_parameter("bias"))
