"""A soft limit on how much is active within the network."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_advreg.parameters import as_patterns, matching
from lightning_advreg.penalties.base import Coefficient, Penalty, as_coefficient
from lightning_advreg.penalties.training_pass import TrainingPass


@dataclass(frozen=True)
class ActivityL1(Penalty):
    """The mean absolute activation of layers, ``weight * sum_l mean |a_l|``: makes representations sparse.

    Glorot et al. (2011, section 4) on rectifiers. The mean is over images and units, and over the passes that the loss
    is computed from: of clean and of attacked images where an objective has both; passes of attacks do not count. Hooks
    are there during these passes alone, so there is no pass more. Networks are not compiled meanwhile.

    Args:
        weight: The coefficient, at least 0; a number or a schedule.
        layers: Names of layers as in ``network.named_modules()``, such as ``"features.*.relu"``, or several.

    Raises:
        TypeError: If ``layers`` is not a name or a list of names.
        ValueError: If ``weight`` is negative.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> penalty, x = ActivityL1(0.5, layers="1"), torch.rand(4, 2)
        >>> with penalty.watching(net) as watched:
        ...     logits = net(x)
        >>> penalty(watched).equal(0.5 * net[1](net[0](x)).mean())
        True
    """

    eager = True

    weight: Coefficient
    _: KW_ONLY
    layers: str | Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", as_coefficient(self.weight, "weight"))
        if self.layers is None:
            raise TypeError("layers must name the layers to watch, such as 'features.*.relu', got None.")
        object.__setattr__(self, "layers", as_patterns(self.layers, "layers"))

    def __call__(self, watched: "Watched", *, epoch: float = math.inf) -> Tensor:
        """Give the penalty of what was seen.

        Args:
            watched: What :meth:`watching` gave.
            epoch: The epoch whose coefficient counts.
        """
        return self.weigh((watched.total(),), epoch).value

    def bound(self, network: nn.Module) -> Self:
        """Give the penalty as it is, after a look whether the network has the layers.

        Raises:
            ValueError: If a name matches no layer.
        """
        self._layers_of(network)
        return self

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator["Watched"]:
        """Watch the layers of a network within this context, in passes that weights are differentiated through.

        Args:
            network: The network.

        Yields:
            What is seen.
        """
        watched = Watched(network)
        handles = [
            layer.register_forward_hook(partial(watched.note, name)) for name, layer in self._layers_of(network).items()
        ]
        try:
            yield watched
        finally:
            for handle in handles:
                handle.remove()

    def terms_of(self, training_pass: TrainingPass) -> tuple[Tensor, ...]:
        """Give the raw term of a training step."""
        watched: Watched = training_pass.watched[id(self)]
        return (watched.total(),)

    def _layers_of(self, network: nn.Module) -> dict[str, nn.Module]:
        named = {name: layer for name, layer in network.named_modules() if name}
        return matching(named, tuple(self.layers), "layers: ", f"layer of {type(network).__name__}")


class Watched:
    """The mean absolute activations that were seen, with their graphs.

    Args:
        network: The network; its passes count while it is trained, and not those of attacks, which freeze it.
    """

    def __init__(self, network: nn.Module) -> None:
        self._probe = next((p for p in network.parameters() if p.requires_grad), None)
        self._means: dict[str, list[Tensor]] = {}

    def note(self, name: str, layer: nn.Module, inputs: object, output: object) -> None:
        """Take in what a layer gave, if this pass counts; a forward hook.

        Raises:
            TypeError: If it is not one tensor.
        """
        if self._probe is None or not self._probe.requires_grad or not torch.is_grad_enabled():
            return
        if not isinstance(output, Tensor):
            raise TypeError(
                f"ActivityL1: the layer {name!r} gives {type(output).__name__} rather than one tensor; name a layer "
                "within it."
            )
        # a product with a constant keeps no hold of the activation, which the next layer may overwrite
        absolute = output * output.detach().sign()
        wide = torch.promote_types(output.dtype, torch.float32)
        self._means.setdefault(name, []).append(absolute.mean(dtype=wide))

    def total(self) -> Tensor:
        """Give the sum over layers of the mean absolute activations.

        Raises:
            RuntimeError: If no layer was at work.
        """
        if not self._means:
            raise RuntimeError(
                "ActivityL1 saw none of its layers at work in a pass that weights are differentiated through; name "
                "layers that the network's forward calls, and train at least one of its parameters."
            )
        return torch.stack([torch.stack(means).mean() for means in self._means.values()]).sum()
