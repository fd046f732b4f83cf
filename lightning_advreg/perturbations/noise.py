"""Gaussian noise on the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lightning_advreg.parameters import weights
from lightning_advreg.perturbations.base import WeightPerturbation
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class WeightNoise(WeightPerturbation):
    """Gaussian noise on the weights in each step: ``v = std * s * n`` with ``n ~ N(0, I)``.

    The gradient is taken at w + v and applied at w (An 1996; Graves 2011, section 6): a random move where SAM makes the
    worst one, and without the pass that SAM needs for it. ``s`` is the root mean square of each weight tensor, so that
    a std means the same in every layer; or 1, with ``relative=False``. Kernels and matrices move; biases and the scales
    of normalisation layers do not. BatchNorm's running statistics follow the pass at w + v, as there is no other.

    Args:
        start_epoch: The first epoch in which it acts; may be fractional.
        std: The standard deviation, at least 0.
        relative: Whether it is relative to the root mean square of the weights of a layer.

    Raises:
        ValueError: If an argument is negative.

    Example:
        >>> layer = nn.Linear(100, 100)
        >>> before = layer.weight.detach().clone()
        >>> climb = WeightNoise(std=0.1).climb_(layer, lambda: torch.tensor(0.0))
        >>> 0.09 < (layer.weight - before).std() / before.square().mean().sqrt() < 0.11
        tensor(True)
        >>> climb.back_()
        >>> layer.weight.equal(before)
        True
    """

    std: Number = 0.1
    relative: bool = True

    first_pass_updates_statistics: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "std", to_float(self.std, "std", minimum=0))

    def moving(self, network: nn.Module) -> dict[str, nn.Parameter]:
        """Give the trained weights."""
        return dict(weights(network))

    def offsets(self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the moves, drawn anew."""
        std = to_float(self.std, "std")
        moves = {name: torch.randn_like(p).mul_(std) for name, p in parameters.items()}
        if self.relative:
            for name, p in parameters.items():
                wide = torch.promote_types(p.dtype, torch.float32)
                moves[name].mul_(torch.linalg.vector_norm(p, dtype=wide) / p.numel() ** 0.5)
        return moves
