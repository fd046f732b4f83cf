"""What a discriminator says of images, in one pass."""

from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from lightning_advreg.modules.gan_checks import one_logit_each


class Verdict(NamedTuple):
    """What a discriminator was shown, and what it said.

    Attributes:
        images: The images ``(N, C, H, W)``.
        logits: How real they look, ``(N,)``.
        features: What the last layer sees, ``(N, F)``, where it was asked for.
        classes: The logits ``(N, K)`` of the auxiliary classifier, where there is one.
    """

    images: Tensor
    logits: Tensor
    features: Tensor | None = None
    classes: Tensor | None = None

    def cut(self, first: Tensor, second: Tensor) -> tuple["Verdict", "Verdict"]:
        """Give what it says of the first images and of those after them.

        Args:
            first: The first images ``(N, C, H, W)``.
            second: The others.
        """
        count = len(first)
        one, other = (
            [None if value is None else value[part] for value in self[1:]]
            for part in (slice(None, count), slice(count, None))
        )
        return Verdict(first, cast(Tensor, one[0]), *one[1:]), Verdict(second, cast(Tensor, other[0]), *other[1:])


class Split(nn.Module):
    """A discriminator that tells what its last layer sees, as one pass: ``(logits, features, classes or None)``.

    Args:
        discriminator: A discriminator with the methods ``features`` and ``score``, and ``classify`` if it classifies.

    Example:
        >>> from lightning_advreg.networks import MLPDiscriminator
        >>> import torch
        >>> logits, features, classes = Split(MLPDiscriminator(hidden=(8,)))(torch.rand(2, 1, 28, 28))
        >>> features.shape, classes
        (torch.Size([2, 8]), None)
    """

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor, *labels: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Give logits ``(N,)``, features ``(N, F)`` and logits of classes ``(N, K)``, for images and labels."""
        network: Any = self.discriminator
        features = network.features(images)
        logits = network.score(features, *labels)
        return logits, features, network.classify(features) if hasattr(network, "classify") else None


def judge(discriminator: nn.Module, images: Tensor, y: Tensor | None, *, split: bool = False) -> Verdict:
    """Show images to a discriminator.

    Args:
        discriminator: The discriminator, or a :class:`Split` of it.
        images: Images ``(N, C, H, W)``.
        y: Their labels ``(N,)``; None for a discriminator that takes none.
        split: Whether to ask for features, and for classes where it has a classifier.

    Raises:
        ValueError: If it does not give one logit per image.

    Example:
        >>> import torch
        >>> judge(nn.Flatten(), torch.ones(2, 1, 1, 1), None).logits
        tensor([1., 1.])
    """
    network = Split(discriminator) if split else discriminator
    given = network(images, *(() if y is None else (y,)))
    logits, *rest = given if isinstance(network, Split) else (given,)
    return Verdict(images, one_logit_each(logits, images), *rest)
