"""Gaussian noise on what layers give."""

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_advreg.parameters import as_patterns, matching
from lightning_advreg.values import Number, to_float


class ActivationNoise(Callback):
    """Gaussian noise on activations, in training: ``a + std * n`` or ``a * (1 + std * n)`` with ``n ~ N(0, I)``.

    Multiplicative noise of ``std = sqrt(p / (1 - p))`` is Gaussian dropout, with mean and variance of dropout with
    probability p (Srivastava et al. 2014, section 10). Additive noise has a fixed size, and a network can grow its
    activations above it: limit these too, or put it behind a normalisation.

    Layers of any LightningModule are chosen by name. A layer in eval mode gives what it always does, so that
    validation, test and attacks (in their default mode) see no noise. Random numbers are drawn as dropout draws them.

    Args:
        std: The standard deviation, at least 0: in units of the activations, or relative to each.
        layers: Names of layers as in ``module.named_modules()``, such as ``"network.*.relu"``, or several.
        multiplicative: Whether the noise is relative to each activation.

    Raises:
        TypeError: If ``layers`` is not a name or a list of names; in ``fit``, if a layer gives no tensor.
        ValueError: If ``std`` is negative; in ``fit``, if a name matches no layer.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ActivationNoise(0.5, "network.*", multiplicative=True)], logger=False)
    """

    def __init__(self, std: Number, layers: str | Sequence[str], multiplicative: bool = False) -> None:
        super().__init__()
        self.std = to_float(std, "std", minimum=0)
        if layers is None:
            raise TypeError("layers must name the layers whose activations get noise, such as 'network.*', got None.")
        self.layers = as_patterns(layers, "layers") or ()
        self.multiplicative = multiplicative
        self._hooks: list[RemovableHandle] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the layers."""
        named = {name: layer for name, layer in pl_module.named_modules() if name}
        chosen = matching(named, self.layers, "layers: ", f"layer of {type(pl_module).__name__}")
        for name, layer in chosen.items():
            self._hooks.append(layer.register_forward_hook(_Noise(self.std, name, self.multiplicative)))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the layers as they were."""
        while self._hooks:
            self._hooks.pop().remove()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Do so after an error too, which no teardown follows."""
        self.teardown(trainer, pl_module, "")


class _Noise:
    # an object rather than a closure: an attack copies the network, hooks included
    def __init__(self, std: float, name: str, multiplicative: bool) -> None:
        self.std, self.name, self.multiplicative = std, name, multiplicative

    def __call__(self, layer: nn.Module, inputs: object, output: object) -> Tensor | None:
        if not layer.training:
            return None
        if not isinstance(output, Tensor):
            raise TypeError(
                f"ActivationNoise: the layer {self.name!r} gives {type(output).__name__} rather than one tensor; name "
                "a layer within it."
            )
        noise = torch.randn_like(output) * self.std
        return output + (noise * output if self.multiplicative else noise)
