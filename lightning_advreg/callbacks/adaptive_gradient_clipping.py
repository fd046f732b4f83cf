"""Clipping of gradients by the size of the weights that they move."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_advreg.parameters import Pattern, as_patterns, matches, matching
from lightning_advreg.values import Number, to_float


class AdaptiveGradientClipping(Callback):
    """Adaptive gradient clipping (Brock et al. 2021, eq. 3): ``G_i <- G_i * min(1, clipping * ||W_i||* / ||G_i||)``.

    ``W_i`` are the weights of one unit, such as an output channel, and ``G_i`` their gradient;
    ``||W_i||* = max(||W_i||, eps)``, so that weights at zero can move. A parameter with one dimension, such as a bias,
    is one unit. It stands in for the stability that normalisation layers give, at large batches above all.

    It acts on any LightningModule, right before each optimizer step and on its parameters: on accumulated gradients,
    after they are unscaled in 16-bit training, and before the clipping of the Trainer (``gradient_clip_val``). Logged
    is ``train/agc/clipped``, the share of the units whose gradient was shortened.

    Args:
        clipping: The largest ratio of gradient to weights, positive. The paper has 0.01 at a batch of 4096, and larger
            values for smaller batches.
        eps: The least norm that weights count with, positive.
        exclude_last: Leave the last layer alone, as in the paper: the one that the last weight among the optimizer's
            parameters belongs to, in the order in which the module has them.
        exclude: Names of further parameters to leave alone, as in ``module.named_parameters()``, such as
            ``"*.bias"``; or several.

    Raises:
        ValueError: If an argument is out of its range; in ``fit``, if a name matches no parameter, or the strategy
            shards weights.

    Example:
        >>> trainer = pl.Trainer(callbacks=[AdaptiveGradientClipping(0.02)], logger=False)
    """

    def __init__(
        self,
        clipping: Number = 0.01,
        eps: Number = 1e-3,
        exclude_last: bool = True,
        exclude: Pattern = None,
    ) -> None:
        super().__init__()
        self.clipping, self.eps = to_float(clipping, "clipping"), to_float(eps, "eps")
        for name, number in (("clipping", self.clipping), ("eps", self.eps)):
            if number <= 0:
                raise ValueError(f"{name} must be positive, got {number:g}; at 0 no weight would move any more.")
        self.exclude_last = exclude_last
        self.exclude = as_patterns(exclude, "exclude") or ()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the module has what is to be left alone."""
        if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
            raise ValueError(
                "AdaptiveGradientClipping needs whole units, and this strategy shards weights; use strategy ddp."
            )
        named = dict(pl_module.named_parameters())
        matching(named, self.exclude, "exclude: ", f"parameter of {type(pl_module).__name__}")

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Clip the gradients that the optimizer is about to take."""
        clipped = clip_adaptively_(self.clipped_by(pl_module, optimizer), pl_module, self.clipping, self.eps)
        if clipped is not None:
            pl_module.log("train/agc/clipped", clipped)

    def clipped_by(self, module: nn.Module, optimizer: Optimizer) -> dict[str, nn.Parameter]:
        """Give the parameters of an optimizer that are clipped, by their names in the module."""
        held: set[int] = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = {name: p for name, p in module.named_parameters() if id(p) in held}
        last = _last_layer(named) if self.exclude_last else None
        return {
            name: p
            for name, p in named.items()
            if name.rpartition(".")[0] != last and not any(matches(name, pattern) for pattern in self.exclude)
        }


@torch.no_grad()
def clip_adaptively_(
    parameters: dict[str, nn.Parameter], module: nn.Module, clipping: float = 0.01, eps: float = 1e-3
) -> Tensor | None:
    """Clip gradients unit by unit, in place (Brock et al. 2021, eq. 3).

    Args:
        parameters: The parameters by their names in ``module``; those without a gradient are passed over.
        module: The module, which tells along which dimension a weight has its units.
        clipping: The largest ratio of gradient to weights.
        eps: The least norm that weights count with.

    Returns:
        The share of units whose gradient was shortened, a scalar on their device; None where there is no gradient.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        >>> layer.weight.grad = torch.tensor([[10.0, 0.0], [0.0, 0.01]])
        >>> share = clip_adaptively_(dict(layer.named_parameters()), layer, clipping=0.1, eps=1.0)
        >>> layer.weight.grad.tolist(), share.item()  # at most 0.1 * 5 and 0.1 * 1
        ([[0.5, 0.0], [0.0, 0.009999999776482582]], 0.5)
    """
    gradients, factors = [], []
    for name, parameter in parameters.items():
        if parameter.grad is not None:
            within = _within_a_unit(module, name, parameter)
            gradients.append(parameter.grad)
            bound = _norms(parameter, within).clamp_(min=eps).mul_(clipping)
            # the bound is positive, so a gradient of zero is divided by to infinity rather than to NaN
            factors.append(bound.div_(_norms(parameter.grad, within)).clamp_(max=1))
    if not factors:
        return None
    for gradient, factor in zip(gradients, factors, strict=True):
        gradient.mul_(factor)
    return (torch.cat([factor.flatten() for factor in factors]) < 1).float().mean()


def _within_a_unit(module: nn.Module, name: str, tensor: Tensor) -> tuple[int, ...]:
    """Give the dimensions that a unit extends over."""
    if tensor.dim() < 2:
        return tuple(range(tensor.dim()))
    owner = module.get_submodule(name.rpartition(".")[0])
    transposed = isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    # (in, out / groups, ...), where all others have (out, in / groups, ...)
    unit = 1 if transposed else 0
    return tuple(dim for dim in range(tensor.dim()) if dim != unit)


def _norms(tensor: Tensor, within: tuple[int, ...]) -> Tensor:
    wide = torch.promote_types(tensor.dtype, torch.float32)
    return torch.linalg.vector_norm(tensor, dim=within, keepdim=True, dtype=wide)


def _last_layer(named: dict[str, nn.Parameter]) -> str | None:
    owners = [name.rpartition(".")[0] for name, p in named.items() if p.dim() > 1]
    return owners[-1] if owners else None
