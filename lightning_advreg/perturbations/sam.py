"""Sharpness-aware minimisation."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lightning_advreg.perturbations.base import WeightPerturbation, direction, length
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class SAM(WeightPerturbation):
    """Sharpness-aware minimisation (Foret et al. 2021, eq. 2 with p = 2): ``v = rho * g / ||g||``.

    Here g is the gradient of the loss with respect to all parameters, penalties left out, and the norm is one over all
    of them. BatchNorm's running statistics follow the pass at w alone.

    Args:
        start_epoch: The first epoch in which it acts; may be fractional.
        rho: The length of the move, at least 0.

    Raises:
        ValueError: If an argument is negative.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.constant_(layer.weight, 3.0)
        >>> climb = SAM(rho=0.5).climb_(layer, lambda: layer(torch.tensor([[3.0, 4.0]])).sum())
        >>> [round(w, 4) for w in layer.weight[0].tolist()]  # 0.5 in the direction (0.6, 0.8)
        [3.3, 3.4]
    """

    rho: Number = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rho", to_float(self.rho, "rho", minimum=0))

    def offsets(self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the moves, all of them zero if all gradients are."""
        rho, norm = to_float(self.rho, "rho"), length(gradients.values())
        return {name: rho * direction(g, norm) for name, g in gradients.items()}


@dataclass(frozen=True, kw_only=True)
class ASAM(SAM):
    """Adaptive SAM (Kwon et al. 2021, section 4): ``v = rho * T^2 g / ||T g||`` with ``T = |w| + eta``, entry by entry.

    Unlike that of SAM, the move keeps its effect when a layer is scaled up and the next one down. T is the paper's, in
    which it covers biases and normalisation scales like any weight; the authors' program takes T = 1 for biases. Only
    the entry-wise T is here, not that per convolution filter. BatchNorm's running statistics follow the pass at w
    alone.

    Args:
        start_epoch: The first epoch in which it acts; may be fractional.
        rho: The length of the move in units of T, at least 0; about ten times that of SAM.
        eta: What is added to ``|w|``, so that weights at zero move too; at least 0.

    Raises:
        ValueError: If an argument is negative.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[0.0, 2.0]]))
        >>> climb = ASAM(rho=0.5, eta=0.0).climb_(layer, lambda: layer(torch.tensor([[7.0, 1.0]])).sum())
        >>> layer.weight.tolist()
        [[0.0, 3.0]]
    """

    rho: Number = 0.5
    eta: Number = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eta", to_float(self.eta, "eta", minimum=0))

    def offsets(self, parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the moves, all of them zero if all gradients are."""
        eta = to_float(self.eta, "eta")
        scales = {name: parameters[name].abs() + eta for name in gradients}
        moves = super().offsets(parameters, {name: scales[name] * g for name, g in gradients.items()})
        return {name: scales[name] * move for name, move in moves.items()}
