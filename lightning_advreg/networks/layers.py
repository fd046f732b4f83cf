"""Normalisation layers and activations chosen by name, so that a config can vary them."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_choice

NormName: TypeAlias = Literal["batch", "group", "layer", "instance", "none"]
"""Which layer follows (or, in pre-activation networks, precedes) a convolution."""

ActivationName: TypeAlias = Literal["relu", "leaky_relu", "silu", "gelu", "softplus", "elu"]
"""Which nonlinearity a network uses. All but ``relu`` and ``leaky_relu`` have a continuous derivative."""

GROUPS = (32, 16, 8, 4, 2, 1)
"""How many groups group normalisation tries, in this order (Wu & He, 2018, use 32)."""

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(_groups(channels), channels),
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "none": lambda channels: nn.Identity(),
}

# Never in place: without normalisation, a pre-activation block would overwrite the input of its own shortcut.
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.01),
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
}


def make_norm(norm: NormName, channels: int) -> nn.Module:
    """Make a normalisation layer for feature maps ``(N, channels, H, W)``.

    Args:
        norm: ``"batch"`` (Ioffe & Szegedy, 2015); ``"group"`` (Wu & He, 2018) with the largest of 32, 16, 8, 4, 2 and
            1 groups that divides ``channels`` and leaves two or more in each, since one alone would be
            ``"instance"``; ``"layer"``, one group over channels and positions (Ba et al., 2016); ``"instance"``
            (Ulyanov et al., 2016) with learned scale and shift; ``"none"``, the identity.
        channels: The number of channels.

    Returns:
        The layer.

    Raises:
        ValueError: If ``norm`` is not one of these names.

    Example:
        >>> make_norm("group", 48).num_groups
        16
    """
    check_choice("norm", norm, _NORMS)
    return _NORMS[norm](channels)


def make_activation(activation: ActivationName) -> nn.Module:
    """Make an activation layer.

    Args:
        activation: The name; ``"leaky_relu"`` has slope 0.01.

    Returns:
        The layer.

    Raises:
        ValueError: If ``activation`` is not one of the names.

    Example:
        >>> make_activation("silu")
        SiLU()
    """
    check_choice("activation", activation, _ACTIVATIONS)
    return _ACTIVATIONS[activation]()


def make_dropout(dropout: float, spatial_dropout: float = 0.0) -> nn.Module:
    """Make what drops units of feature maps ``(N, C, H, W)``, and channels as a whole where asked to.

    Args:
        dropout: The chance that a unit is dropped (Srivastava et al. 2014), in [0, 1).
        spatial_dropout: The chance that a channel of an image is dropped (Tompson et al. 2015), in [0, 1).

    Returns:
        The layer.

    Example:
        >>> make_dropout(0.3)
        Dropout(p=0.3, inplace=False)
    """
    units = nn.Dropout(dropout)
    return nn.Sequential(nn.Dropout2d(spatial_dropout), units) if spatial_dropout else units


def needs_bias(norm: str) -> bool:
    """Whether the convolution or linear layer before ``norm`` needs a bias: only when no norm layer adds a shift.

    Example:
        >>> needs_bias("batch"), needs_bias("none")
        (False, True)
    """
    return norm == "none"


def _groups(channels: int) -> int:
    return next((g for g in GROUPS if channels % g == 0 and channels >= 2 * g), 1)


class SkipGain(nn.Module):
    """A learned scalar that starts at zero, at the end of a residual branch.

    Each residual block is then the identity at the start, which is what normalisation achieves in deep residual
    networks; without either, activations grow exponentially with depth. Source: SkipInit, De & Smith (2020).

    Example:
        >>> SkipGain()(torch.ones(2)).tolist()
        [0.0, 0.0]
    """

    def __init__(self) -> None:
        super().__init__()
        # One element rather than zero dimensions: sharded training (FSDP) does not take 0-d parameters.
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Give ``gain * x``, of the shape of ``x``."""
        return self.gain * x


def make_branch_end(norm: NormName) -> nn.Module:
    """Make what ends a residual branch: ``SkipGain`` in networks without normalisation, else the identity.

    Args:
        norm: The normalisation of the network.

    Returns:
        The layer.

    Example:
        >>> make_branch_end("batch")
        Identity()
    """
    return SkipGain() if norm == "none" else nn.Identity()
