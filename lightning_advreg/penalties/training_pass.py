"""What a training step leaves for its penalties, so that none of them runs the network again without need."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_advreg.attacks import in_mode


class TrainingPass:
    """The network of a training step, and the pass through it that the loss is computed from.

    Args:
        network: The network, at the weights that are differentiated.
        x: The images that penalties act on ``(N, C, H, W)``: attacked ones in adversarial training. They require a
            gradient where a penalty differentiates by them.
        y: Their labels ``(N,)``.
        logits: The logits ``(N, K)`` computed from ``x``, or None where the step has none.
        watched: What penalties have seen in the layers that they watch, by the penalty's ``id``.

    Example:
        >>> net, x = nn.Linear(2, 3), torch.rand(4, 2)
        >>> logits = net(x)
        >>> TrainingPass(net, x, logits=logits).logits() is logits
        True
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor | None = None,
        y: Tensor | None = None,
        logits: Tensor | None = None,
        watched: Mapping[int, Any] | None = None,
    ) -> None:
        self.network = network
        self.watched = dict(watched or {})
        self._x, self._y = x, y
        # logits without a gradient tell nothing about the weights
        self._logits = logits if logits is not None and logits.requires_grad else None

    @property
    def y(self) -> Tensor:
        """The labels ``(N,)``."""
        return _given(self._y, "labels")

    def images(self) -> Tensor:
        """Give the images ``(N, C, H, W)`` that penalties act on."""
        return _given(self._x, "images")

    def logits(self) -> Tensor:
        """Give the logits ``(N, K)`` of the images: those of the step, or else those of a pass of its own."""
        if self._logits is None:
            self._run(_given(self._x, "images").detach())
        return _given(self._logits, "logits")

    def differentiable(self) -> tuple[Tensor, Tensor]:
        """Give images that require a gradient, and the logits computed from them."""
        x = _given(self._x, "images")
        if self._logits is None or not x.requires_grad:
            self._run(x.detach().requires_grad_())
        return _given(self._x, "images"), _given(self._logits, "logits")

    def _run(self, x: Tensor) -> None:
        self._x, self._logits = x, logits_of(self.network, x)


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """Run a network as it is, but for the running statistics of BatchNorm, which follow the passes of the loss alone.

    Args:
        network: The network, in the mode that it is trained in.
        x: Images ``(N, C, H, W)``.

    Returns:
        Logits ``(N, K)``.
    """
    with in_mode(network, "batch_stats" if network.training else "eval"), torch.enable_grad():
        logits: Tensor = network(x)
        return logits


def _given(tensor: Tensor | None, name: str) -> Tensor:
    if tensor is None:
        raise ValueError(f"this penalty needs the {name} of a training step, and the step has none.")
    return tensor
