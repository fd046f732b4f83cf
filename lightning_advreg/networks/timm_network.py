"""Any classifier of timm by name."""

import difflib
from typing import Any

from torch import Tensor

from lightning_advreg.networks.arguments import check_dropout, check_sizes
from lightning_advreg.networks.base import Network
from lightning_advreg.networks.pixels import make_normalize


class TimmNetwork(Network):
    """A classifier of timm (PyTorch Image Models), with normalisation as its first layer.

    Normalisation layers and activations are those of the timm model; where a model lets them be chosen, pass its own
    arguments in ``model_kwargs``. Needs ``pip install "lightning-advreg[timm]"``.

    Args:
        name: A name from ``timm.list_models()``, such as ``"resnet50"`` or ``"vit_tiny_patch16_224"``, optionally with
            the tag of its weights (``"resnet50.a1_in1k"``).
        num_classes: The number of logits.
        in_channels: Channels of the images.
        pretrained: Download and load timm's weights. They are loaded again when a checkpoint rebuilds the network,
            before the checkpoint's own weights replace them.
        dropout: timm's ``drop_rate``, before the last linear layer in most models, in [0, 1).
        mean: Pixel mean per channel, in [0, 1]. None: that of timm's weights if it has as many values as there are
            channels, else no normalisation.
        std: Pixel standard deviation per channel. None: as for ``mean``.
        model_kwargs: Further arguments of the timm model, such as ``{"img_size": 32, "patch_size": 4}`` for a vision
            transformer on small images.

    Raises:
        ImportError: If timm is not installed.
        ValueError: If timm has no model of this name, or an argument is out of its range.

    Example:
        >>> import torch
        >>> TimmNetwork("resnet10t", num_classes=5).eval()(torch.rand(1, 3, 32, 32)).shape
        torch.Size([1, 5])
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 10,
        in_channels: int = 3,
        pretrained: bool = False,
        dropout: float = 0.0,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, in_channels=in_channels)
        check_dropout(dropout=dropout)
        try:
            import timm
        except ImportError as error:
            raise ImportError(
                f'TimmNetwork(name={name!r}) needs timm: pip install "lightning-advreg[timm]".'
            ) from error
        # a colon marks weights of a hub or a folder, which timm resolves itself
        if ":" not in name and not timm.is_model(name):
            nearest = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0)
            raise ValueError(
                f"timm has no model of name={name!r}; the nearest names are {', '.join(nearest)}, "
                "and timm.list_models() gives all."
            )
        kwargs = dict(model_kwargs or {})
        if dropout > 0:
            # left out at 0, as not every timm model takes it
            kwargs["drop_rate"] = dropout
        self.model = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **kwargs
        )
        weights_config = self.model.pretrained_cfg
        self.normalize = make_normalize(mean, std, in_channels, default=(weights_config["mean"], weights_config["std"]))

    def forward(self, x: Tensor) -> Tensor:
        """Give logits.

        Args:
            x: Images in [0, 1], of shape ``(N, in_channels, H, W)``, of a size the timm model takes.

        Returns:
            Logits of shape ``(N, num_classes)``.
        """
        logits: Tensor = self.model(self.normalize(x))
        return logits
