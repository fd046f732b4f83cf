"""What a discriminator says of images, in one pass."""

from typing import Any, NamedTuple

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


def judge(discriminator: nn.Module, images: Tensor, y: Tensor | None, *, split: bool = False) -> Verdict:
    """Show images to a discriminator.

    Args:
        discriminator: The discriminator.
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
    labels = () if y is None else (y,)
    if not split:
        return Verdict(images, one_logit_each(discriminator(images, *labels), images))
    network: Any = discriminator
    features = network.features(images)
    logits = one_logit_each(network.score(features, *labels), images)
    return Verdict(images, logits, features, network.classify(features) if hasattr(network, "classify") else None)
