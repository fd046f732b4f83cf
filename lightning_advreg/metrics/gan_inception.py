"""Features of the Inception network that FID, KID and Inception Score are defined with."""

from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_advreg.files import RefusedFile, read_tensors
from lightning_advreg.metrics.gan_features import FeatureExtractor, hash_of_file

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
"""The name of the file under which torch-fidelity publishes the weights; the end is the start of its SHA-256."""

_PUBLISHED = "6726825d"


class InceptionFeatures(FeatureExtractor):
    """The Inception V3 of TensorFlow, 2015, ported to PyTorch: 2048 pooled features and 1008 logits without bias.

    Architecture and resizing are those of torch-fidelity (``pip install lightning-advreg[gan]``), the weights are read
    from a local file; nothing is downloaded. Distances are called FID, KID and Inception Score where the file is the
    published one, by its SHA-256, and with no other weights. Grey images are shown as red, green and blue alike.

    Args:
        weights: The weights file, or the folder in which it lies under its published name,
            ``weights-inception-2015-12-05-6726825d.pth``; None for the folder of ``torch.hub``.

    Raises:
        ModuleNotFoundError: If torch-fidelity is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If it is no file of such weights.

    Example:
        >>> InceptionFeatures("no_such_folder/inception.pth")
        Traceback (most recent call last):
        ...
        FileNotFoundError: there are no Inception weights at ...no_such_folder/inception.pth; ...
    """

    num_classes = 1008
    needs_bytes = True

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = Path(torch.hub.get_dir(), "checkpoints") if weights is None else Path(weights)
        path = (path / WEIGHTS if path.is_dir() or weights is None else path).absolute()
        if not path.is_file():
            raise FileNotFoundError(
                f"there are no Inception weights at {path}; take {WEIGHTS} from the releases of torch-fidelity (0.2.0) "
                "and give its path as weights=..., or use ClassifierFeatures, whose distances are not "
                "called FID."
            )
        self.network = _network(path)
        digest = hash_of_file(path)
        self.is_inception = digest == _PUBLISHED
        self.name = f"InceptionV3-{digest}"
        self.eval()

    def extract(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Give the pooled features ``(N, 2048)`` and the logits ``(N, 1008)``.

        Raises:
            ValueError: If images are neither grey nor red, green and blue.
        """
        if images.shape[1] not in (1, 3):
            raise ValueError(f"the Inception network sees images of 1 or 3 channels, got {images.shape[1]}.")
        features, logits = self.network(images.mul(255).round().to(torch.uint8).expand(-1, 3, -1, -1))
        return features, logits


def _network(path: Path) -> nn.Module:
    try:
        extractors = import_module("torch_fidelity.feature_extractor_inceptionv3")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "InceptionFeatures needs torch-fidelity; install it with `pip install lightning-advreg[gan]`."
        ) from error
    try:
        # torch-fidelity would run what a pickle says; a file that passes here holds tensors alone
        read_tensors(path, "file of Inception weights", remedy=f"take the file {WEIGHTS} again", old_format=True)
        network: nn.Module = extractors.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
    except (RefusedFile, RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} holds no Inception weights as torch-fidelity publishes them; take the file {WEIGHTS} again. "
            f"PyTorch says: {str(error).splitlines()[0]}"
        ) from error
    return network
