"""An exponential moving average of a module's weights, and the way in and out of the module."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn


class MovingAverage:
    """The average ``a <- tau a + (1 - tau) w`` with ``tau = min(decay, (1 + t) / (10 + t))`` at the t-th update.

    Without a decay ``tau = t / (t + 1)``, with which the start and all updates count the same.

    It is kept in float32 at least: in bfloat16 its small steps would be rounded away.

    Args:
        decay: The largest tau, in [0, 1), or None.

    Attributes:
        steps: The number of updates so far.
        weights: The averaged weights by the names of the module's parameters, empty before it starts.
        statistics: Values of buffers that belong to these weights, where they were recomputed.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.zeros_(layer.weight)
        >>> average = MovingAverage(decay=0.9)
        >>> average.start(layer)
        >>> _ = nn.init.ones_(layer.weight)
        >>> average.update(layer)  # tau is 2 / 11
        >>> round(average.weights["weight"].item(), 4)
        0.8182
    """

    def __init__(self, decay: float | None) -> None:
        self.decay = decay
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.steps = 0
        self.weights: dict[str, Tensor] = {}
        self.statistics: dict[str, Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self.weights)

    @property
    def values(self) -> dict[str, Tensor]:
        """Weights and statistics together."""
        return {**self.weights, **self.statistics}

    def start(self, module: nn.Module) -> None:
        """Begin at the weights of a module."""
        self.clear()
        self.weights = {name: _precise(p).clone() for name, p in _weights(module).items()}

    def update(self, module: nn.Module) -> None:
        """Move towards the weights of a module."""
        self.steps += 1
        # those recomputed in an earlier fit are not of the new average
        self.statistics = {}
        current = _weights(module)
        step = (
            get_swa_multi_avg_fn()
            if self.decay is None
            else get_ema_multi_avg_fn(min(self.decay, (1 + self.steps) / (10 + self.steps)))
        )
        step(list(self.weights.values()), [_precise(current[name]) for name in self.weights], self.steps)

    def follow(self, module: nn.Module) -> None:
        """Go to the devices of a module's weights.

        Raises:
            ValueError: If it is the average of another module.
        """
        if not self:
            return
        current = _weights(module)
        _check_fit({name: value.shape for name, value in current.items()}, self.weights, module)
        self.weights = {name: self.weights[name].to(p.device) for name, p in current.items()}

    def state_dict(self) -> dict[str, Any]:
        """Give plain tensors, of its own: training may go on while they are written."""
        held = {"weights": self.weights, "statistics": self.statistics}
        return {"steps": self.steps} | {
            key: {name: value.clone() for name, value in tensors.items()} for key, tensors in held.items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over an average."""
        self.steps = state_dict["steps"]
        self.weights, self.statistics = dict(state_dict["weights"]), dict(state_dict["statistics"])


def exchange_(module: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy values into parameters and buffers of a module, in place, and give those that they had.

    The tensors of the module stay the same objects, which optimizers and compiled graphs hold on to.

    Args:
        module: The module.
        values: Values by the names of parameters and buffers.

    Returns:
        Copies of the former values, by the same names.

    Raises:
        ValueError: If the module has no tensor of a name, or one of another shape.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> _ = nn.init.ones_(layer.weight)
        >>> exchange_(layer, {"weight": torch.zeros(1, 1)}), layer.weight.item()
        ({'weight': tensor([[1.]])}, 0.0)
    """
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    _check_fit({name: held[name].shape for name in values if name in held}, values, module)
    # copies made in inference mode could not be used outside it
    with torch.inference_mode(False), torch.no_grad():
        before = {name: held[name].detach().clone() for name in values}
        for name, value in values.items():
            held[name].copy_(value)
    # autocast keeps half-precision copies of the weights, which do not notice that these have changed
    torch.clear_autocast_cache()
    return before


def _check_fit(shapes: Mapping[str, torch.Size], values: Mapping[str, Tensor], module: nn.Module) -> None:
    differing = shapes.items() ^ {name: value.shape for name, value in values.items()}.items()
    if differing:
        names = sorted({name for name, _ in differing})
        raise ValueError(
            f"the averaged weights are not those of this {type(module).__name__}: they differ in "
            f"{', '.join(names[:5])}; give a checkpoint of this module, or remove WeightAverage."
        )


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters() if p.is_floating_point()}


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
