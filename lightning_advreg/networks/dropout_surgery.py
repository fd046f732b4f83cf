"""Dropout of several kinds in a network that is there already."""

from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

from torch import nn
from torchvision.ops import StochasticDepth

from lightning_advreg.networks.arguments import check_choice
from lightning_advreg.networks.attached import attach, detach
from lightning_advreg.networks.branches import residual_branches
from lightning_advreg.networks.drop_block import DropBlock, check_block_size
from lightning_advreg.parameters import Pattern, as_patterns, matching
from lightning_advreg.values import Number, to_float

DropoutKind: TypeAlias = Literal["dropout", "spatial", "dropblock", "droppath"]
"""What is dropped; see :func:`set_dropout_`."""

_NAME = "dropout_ablation"
_BEFORE = "p_before_ablation"
# by name too: those of timm, which need not be installed
_EXISTING: dict[str, tuple[str, ...]] = {
    "dropout": ("Dropout",),
    "spatial": ("Dropout2d",),
    "dropblock": ("DropBlock", "DropBlock2d"),
    "droppath": ("StochasticDepth", "DropPath"),
}


def set_dropout_(
    network: nn.Module, p: Number, kind: DropoutKind = "dropout", layers: Pattern = None, *, block_size: int = 7
) -> tuple[str, ...]:
    """Set the dropout of a network, in place; what an earlier call did is taken back first.

    Layers of the kind that the network has (PyTorch's, torchvision's, or timm's) get the probability ``p``. Where
    there are none, layers are attached, which changes neither types nor the names of parameters:

    - ``"dropout"``, single units (Srivastava et al. 2014): before the last linear layer.
    - ``"spatial"``, whole channels (Tompson et al. 2015), and ``"dropblock"``, squares of ``block_size`` pixels
      (Ghiasi et al. 2018): on the output of each block with a residual sum; in a network without, before every 2-d
      convolution but the first.
    - ``"droppath"``, whole residual branches for an image (Huang et al. 2016, equation 4): at the end of branch l of L
      with probability ``p l / L``. Layers that the network has count among the L.

    Args:
        network: The network, changed in place.
        p: The probability of dropping, in [0, 1); at 0 layers of the kind are switched off, and none is attached.
        kind: What is dropped.
        layers: Where instead: names as in ``network.named_modules()``, such as ``"layer4.*"``, or several. Layers of
            the kind get ``p``, and after any other one a layer is attached; not in containers, which pass nothing on.
        block_size: The side of the squares of ``"dropblock"``, in pixels of the features, an odd number; the largest
            that fits where a map is smaller.

    Returns:
        The names of the layers that drop now, or to which one that does is attached.

    Raises:
        ValueError: If an argument is out of its range, a pattern matches no layer, or there is no place where this kind
            could be attached.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> set_dropout_(net, 0.3)
        ('3',)
        >>> net[3].dropout_ablation
        Dropout(p=0.3, inplace=False)
    """
    p = to_float(p, "p", minimum=0, below=1)
    check_choice("kind", kind, get_args(DropoutKind))
    check_block_size(block_size)
    _take_back(network)
    existing = {name: layer for name, layer in network.named_modules() if type(layer).__name__ in _EXISTING[kind]}
    places: list[str] = []
    before = False
    if layers is not None:
        names = _matching(network, layers)
        existing = {name: layer for name, layer in existing.items() if name in names}
        places = [name for name in names if name not in existing]
    elif kind == "droppath":
        places = list(_free_branches(network, list(existing)))
    elif not existing:
        places, before = _places(network, kind)
    if not existing and not places:
        raise ValueError(_nowhere(network, kind))
    order = [name for name, _ in network.named_modules() if name in existing or name in places]
    for index, name in enumerate(order, start=1):
        share = p * index / len(order) if kind == "droppath" else p
        if name in existing:
            _set(existing[name], share)
        elif share > 0:
            drop = _made(kind, share, block_size)
            # the mode of what it is part of: a frozen layer is in eval mode always
            drop.train(network.get_submodule(name.rpartition(".")[0]).training)
            attach(network.get_submodule(name), _NAME, drop, before=before)
    return tuple(order)


def drops_by_attachment(layer: nn.Module) -> bool:
    """Tell whether :func:`set_dropout_` has attached dropout to a layer."""
    return hasattr(layer, _NAME)


def _take_back(network: nn.Module) -> None:
    for layer in list(network.modules()):
        detach(layer, _NAME)
        if hasattr(layer, _BEFORE):
            _set_probability(layer, getattr(layer, _BEFORE))
            delattr(layer, _BEFORE)


def _set(layer: nn.Module, p: float) -> None:
    setattr(layer, _BEFORE, getattr(layer, _attribute(layer)))
    _set_probability(layer, p)


def _set_probability(layer: nn.Module, p: float) -> None:
    setattr(layer, _attribute(layer), p)


def _attribute(layer: nn.Module) -> str:
    return "drop_prob" if hasattr(layer, "drop_prob") else "p"


def _made(kind: DropoutKind, p: float, block_size: int) -> nn.Module:
    if kind == "dropout":
        return nn.Dropout(p)
    if kind == "spatial":
        return nn.Dropout2d(p)
    return DropBlock(p, block_size) if kind == "dropblock" else StochasticDepth(p, "row")


def _matching(network: nn.Module, layers: Pattern) -> list[str]:
    named = {
        name: layer
        for name, layer in network.named_modules()
        if name and not isinstance(layer, nn.Sequential | nn.ModuleList | nn.ModuleDict)
    }
    patterns = as_patterns(layers, "layers") or ()
    return list(matching(named, patterns, "layers=", f"layer of {type(network).__name__}"))


def _free_branches(network: nn.Module, existing: list[str]) -> Iterator[str]:
    for branch in residual_branches(network):
        # a branch that drops paths already, at its end or within the layers that make it up
        if not any(name == layer or name.startswith(f"{layer}.") for layer in branch.layers for name in existing):
            yield branch.end


def _places(network: nn.Module, kind: DropoutKind) -> tuple[list[str], bool]:
    if kind == "dropout":
        return [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear)][-1:], True
    convolutions = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    # those of transformers sum as well, but have no channels to drop
    blocks = {branch.block for branch in residual_branches(network) if branch.block}
    blocks = {block for block in blocks if any(name.startswith(f"{block}.") for name in convolutions)}
    return (sorted(blocks), False) if blocks else (convolutions[1:], True)


def _nowhere(network: nn.Module, kind: DropoutKind) -> str:
    name = type(network).__name__
    reasons = {
        "dropout": f"{name} has no linear layer, before the last of which dropout would come",
        "droppath": (
            f"no residual branch was found in {name}: no module of it sums a longer and a shorter path from the same "
            "features, or those that do depend on values or shapes, and cannot be traced"
        ),
    }
    reason = reasons.get(kind, f"{name} has neither a residual block nor a second 2-d convolution to drop channels at")
    return f"kind={kind!r} finds no place: {reason}; name layers after which to drop with layers=[...]."
