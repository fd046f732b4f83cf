"""Adversarial weight perturbation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from lightning_advreg.parameters import weights
from lightning_advreg.perturbations.base import WeightPerturbation, direction, length
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class AWP(WeightPerturbation):
    """Adversarial weight perturbation (Wu et al. 2020, Algorithm 1): ``v = gamma * ||w|| / ||d|| * d`` in each layer.

    Here d is the gradient of the adversarial loss with respect to the layer's weights, penalties left out. One step
    from v = 0, as in the paper. Kernels and matrices move; biases and the scales of normalisation layers do not. The
    paper uses gamma 0.01 for adversarial training from the start, and 0.005 for TRADES after 10 epochs. It flattens
    the loss over the weights, against robust overfitting, for three more passes a step.

    The climb leaves BatchNorm's running statistics alone (the paper climbs on a copy), and those then follow the pass
    at w + v. The paper subtracts v after the optimizer's step, which is the same but that its weight decay acts on
    w + v: a difference of ``lr * weight_decay * v``.

    Args:
        start_epoch: The first epoch in which it acts; may be fractional.
        gamma: The length of the move relative to that of the weights, at least 0.

    Raises:
        ValueError: If an argument is negative.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = torch.nn.init.constant_(layer.weight, 3.0)
        >>> climb = AWP(gamma=0.1).climb_(layer, lambda: layer(torch.tensor([[0.0, 2.0]])).sum())
        >>> [round(w, 4) for w in layer.weight[0].tolist()]  # 0.1 * ||(3, 3)|| in the direction (0, 1)
        [3.0, 3.4243]
        >>> climb.back_()
        >>> layer.weight.tolist()
        [[3.0, 3.0]]
    """

    gamma: Number = 0.01

    first_pass_updates_statistics: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "gamma", to_float(self.gamma, "gamma", minimum=0))

    def moving(self, network: nn.Module) -> dict[str, nn.Parameter]:
        """Give the trained tensors named ``weight`` that have more than one dimension."""
        return {name: parameter for name, parameter in weights(network) if "weight" in name}

    def offsets(self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give each layer's move; none where its gradient is zero."""
        gamma = to_float(self.gamma, "gamma")
        return {name: gamma * length([parameters[name]]) * direction(d, length([d])) for name, d in gradients.items()}
