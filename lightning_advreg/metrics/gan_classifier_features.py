"""Features of a classifier that was trained on the data."""

import copy
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_advreg.files import read_checkpoint
from lightning_advreg.files.packages import check_class_paths
from lightning_advreg.metrics.gan_features import FeatureExtractor, hash_of_weights

_KEY = "lightning_advreg"


class ClassifierFeatures(FeatureExtractor):
    """The input of a classifier's last linear layer, and its logits.

    Distances in these features say how images look to this classifier: they compare generators that the same classifier
    has seen, and are not FID. So each figure carries its name: the class of the network and a hash of its weights.

    Args:
        classifier: A network from images in [0, 1] to logits, a LightningModule of this library, or the path of its
            checkpoint. It is copied.
        layer: The name of the linear layer whose input the features are, such as ``"fc"``; None for the last one.

    Attributes:
        name: Such as ``MNISTConvNet-3f2a91c0``.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path.
        ValueError: If the checkpoint is not of a classifier of this library, or the network has no such layer.

    Example:
        >>> import torch
        >>> from lightning_advreg.networks import MNISTConvNet
        >>> extractor = ClassifierFeatures(MNISTConvNet(image_size=8, hidden=16))
        >>> seen = extractor(torch.rand(2, 1, 8, 8))
        >>> seen.features.shape, seen.logits.shape, extractor.name[:13]
        (torch.Size([2, 16]), torch.Size([2, 10]), 'MNISTConvNet-')
    """

    def __init__(self, classifier: nn.Module | str | Path, layer: str | None = None) -> None:
        super().__init__()
        module = classifier if isinstance(classifier, nn.Module) else _load(Path(classifier))
        # of our LightningModules the network alone, since the rest cannot always be copied
        network = getattr(module, "network", module) if hasattr(module, "load_from_checkpoint") else module
        self.network: nn.Module = copy.deepcopy(network).requires_grad_(False)
        head, self.num_classes = _head(self.network, layer)
        self.name = f"{type(network).__name__}-{hash_of_weights(network, layer or '')}"
        self.layer = layer
        self._seen: Tensor | None = None
        head.register_forward_hook(self._keep)
        self.eval()

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give the features and the logits.

        Raises:
            ValueError: If the network does not use the layer, or uses it on something other than one vector per image.
        """
        self._take()
        logits: Tensor = self.network(images)
        features: Tensor | None = self._take()
        if features is None or features.dim() != 2 or len(features) != len(images):
            found = "it is not used" if features is None else f"it takes an input of shape {tuple(features.shape)}"
            raise ValueError(
                f"{type(self.network).__name__} has no features of shape (N, F) at its layer {self.layer or 'last'!r}: "
                f"{found}; name the linear layer that gives the logits as layer=..., one of "
                f"{', '.join(_linear_layers(self.network))}."
            )
        return features, logits

    def _take(self) -> Tensor | None:
        seen, self._seen = self._seen, None
        return seen

    def _keep(self, layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._seen = inputs[0]


def _linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Linear)}


def _head(network: nn.Module, layer: str | None) -> tuple[nn.Linear, int]:
    layers = _linear_layers(network)
    if not layers or (layer is not None and layer not in layers):
        wanted = "no linear layer" if layer is None else f"no linear layer {layer!r}"
        raise ValueError(
            f"{type(network).__name__} has {wanted}, whose input would be the features; it has "
            f"{', '.join(layers) or 'none'}. Give a classifier that ends in a linear layer, or name one as layer=...."
        )
    head = layers[list(layers)[-1] if layer is None else layer]
    return head, head.out_features


def _load(path: Path) -> nn.Module:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path.absolute()} of a classifier; train one on the data of the GAN with "
            "`lightning-advreg fit`, and give the path of its last.ckpt."
        )
    name = read_checkpoint(path, mmap=True).get(_KEY, {}).get("class", "")
    package, _, cls = str(name).rpartition(".")
    check_class_paths({"class": str(name)}, str(path))
    # by name: the modules of Lightning lie above metrics
    module = getattr(import_module(package), cls, None) if package else None
    if module is None or not hasattr(module, "load_from_checkpoint"):
        raise ValueError(
            f"{path} is not a checkpoint of a classifier of this library; load it yourself, and give the network "
            "instead of the path."
        )
    loaded: nn.Module = module.load_from_checkpoint(path, map_location="cpu")
    if not isinstance(getattr(loaded, "network", None), nn.Module):
        raise ValueError(f"{path} is a checkpoint of {cls}, which is no classifier; give that of one.")
    return loaded
