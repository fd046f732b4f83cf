"""From images to the features that distances between real and generated images are measured in."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_advreg.checks import check_types
from lightning_advreg.networks.pixels import to_bytes
from lightning_advreg.recorded import Recorded

_HASH_LENGTH = 8


class Features(NamedTuple):
    """What an extractor sees in a batch of images, and what every metric of generated images takes.

    Attributes:
        features: Floating point, of shape ``(N, F)``.
        logits: Of the extractor's classes, of shape ``(N, K)``, or None if it knows none.
        labels: The class of each real image, or the class that a generated one was asked for; int64 of shape ``(N,)``,
            or None.
    """

    features: Tensor
    logits: Tensor | None = None
    labels: Tensor | None = None


class FeatureExtractor(Recorded, nn.Module, ABC):
    """A fixed network that turns images into features.

    It is always in eval mode and frozen. It belongs to the callback that measures, never to the checkpoint of a GAN.
    A subclass writes :meth:`extract` and sets ``name``, which every figure made with it carries.

    Attributes:
        name: What it is, with a hash of its weights: ``MNISTConvNet-3f2a91c0``.
        num_classes: The number of its logits, or None if it gives none.
        is_inception: Whether distances in its features are those that papers call FID, KID and Inception Score.
        needs_bytes: Whether it takes 8-bit images alone.
    """

    name: str
    num_classes: int | None = None
    is_inception: bool = False
    needs_bytes: bool = False

    @abstractmethod
    def extract(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give features ``(N, F)`` and logits ``(N, K)``, or None for the latter.

        Args:
            images: Float32 in [0, 1], of shape ``(N, C, H, W)``.
        """

    @torch.no_grad()
    def forward(self, images: Tensor, labels: Tensor | None = None, *, rounded: bool = True) -> Features:
        """Look at images.

        Args:
            images: Of shape ``(N, C, H, W)``: floating point in [0, 1], or uint8.
            labels: Their classes, handed on.
            rounded: Round to 8 bits first, as images are in files: only then do real and generated images differ in
                nothing but what they show. Differences between images that are close need False.

        Returns:
            Features and logits in float32, whatever the precision around.

        Raises:
            TypeError: If images are neither floating point nor uint8.
            ValueError: If they are no batch, or the extractor takes 8-bit images alone and ``rounded`` is False.
        """
        if images.dtype == torch.uint8:
            images = images.float() / 255
        check_types(images)
        if self.needs_bytes and not rounded:
            raise ValueError(
                f"{self.name} takes images of 8 bits, in which images that are close do not differ; measure the "
                "smoothness of interpolations with ClassifierFeatures."
            )
        images = to_bytes(images).float() / 255 if rounded else images.float()
        with torch.autocast(images.device.type, enabled=False):
            features, logits = self.extract(images)
        return Features(features.float(), None if logits is None else logits.float(), labels)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode."""
        return super().train(False)


class PixelFeatures(FeatureExtractor):
    """Pixels themselves as features, in [0, 1], for distances that no network has a say in.

    Example:
        >>> PixelFeatures()(torch.rand(2, 1, 8, 8)).features.shape
        torch.Size([2, 64])
    """

    name = "pixels"

    def extract(self, images: Tensor) -> tuple[Tensor, None]:
        """Give the pixels as ``(N, C * H * W)``."""
        return images.flatten(1), None


def hash_of_weights(module: nn.Module, extra: str = "") -> str:
    """Give 8 hexadecimal digits that change with any weight or buffer of a network, also with those not saved.

    Args:
        module: The network.
        extra: More that the hash is to depend on.

    Example:
        >>> len(hash_of_weights(nn.Linear(2, 2)))
        8
    """
    digest = hashlib.sha256(extra.encode())
    tensors: Mapping[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_HASH_LENGTH]


def hash_of_file(path: Path) -> str:
    """Give the first 8 hexadecimal digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:_HASH_LENGTH]
