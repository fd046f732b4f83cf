"""Other normalisation layers in a network that is there already."""

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import chain
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_choice
from lightning_advreg.networks.attached import After, attach, detach, hand_over
from lightning_advreg.networks.branches import Branch, residual_branches
from lightning_advreg.networks.dual_norm import DualBatchNorm, dual_norms
from lightning_advreg.networks.frozen_norm import FrozenBatchNorm
from lightning_advreg.networks.layers import SkipGain, make_norm
from lightning_advreg.networks.unnormalized import NoNorm, standardize_, unstandardize_
from lightning_advreg.parameters import Pattern, as_patterns, matching

NormKind: TypeAlias = Literal["batch", "group", "layer", "instance", "none", "frozen", "dual"]
"""What normalisation layers are replaced by; see :func:`replace_norms_`."""

_BATCH, _INSTANCE = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
_NORMS = (_BATCH, _INSTANCE, nn.GroupNorm, NoNorm, FrozenBatchNorm, DualBatchNorm)
_FORWARDS = {norm.forward for norm in (*_NORMS, nn.SyncBatchNorm)}
_DIMS: dict[type[nn.Module], int] = {
    nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3,
    nn.InstanceNorm1d: 1, nn.InstanceNorm2d: 2, nn.InstanceNorm3d: 3,
}  # fmt: skip
_BATCH_OF = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE_OF = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_GAIN = "branch_gain"


def replace_norms_(
    network: nn.Module, kind: NormKind, layers: Pattern = None, *, train_affine: bool = True
) -> tuple[str, ...]:
    """Replace the normalisation layers of a network, in place.

    Found are the layers that normalise channels: ``BatchNorm`` and ``InstanceNorm`` in 1 to 3 dimensions,
    ``SyncBatchNorm``, ``GroupNorm``, and what this function put in their places; ``LayerNorm``, as in transformers, is
    not one of them. A layer that is of the kind already stays. Learned scales and shifts stay the same parameters under
    the same names (but for ``"dual"``), and so do epsilon, the layer's mode, hooks on it, and an activation within it
    (timm's ``BatchNormAct2d``).

    - ``"batch"``, ``"group"`` (the largest of 32, 16, ... groups that divides the channels and leaves two in each),
      ``"layer"`` (one group over channels and positions), ``"instance"``: as in ``make_norm``.
    - ``"frozen"``: BatchNorm by the running statistics that it has, which stay as they are.
    - ``"dual"``: a BatchNorm for clean and one for attacked images (:class:`DualBatchNorm`), which both begin with the
      statistics, scale and shift that there are, under the names ``clean.*`` and ``adversarial.*`` below the layer's.
      Another kind in place of it takes what the half for evaluation learned.
    - ``"none"``: the scale and shift alone. Convolutions beside the layer, under the same parent, standardise their
      weights (Qiao et al. 2019; Brock et al. 2021a), and residual branches begin at zero (SkipInit, De & Smith 2020):
      where a branch ends in such a layer its scale is set to 0, else a learned gain of 0 is attached. That is what
      keeps a deep network trainable; a network that was trained with normalisation has to be trained again.

    Args:
        network: The network, changed in place.
        kind: What comes in the places of the layers.
        layers: Names of layers, as in ``network.named_modules()``, such as ``"layer4.*"``, or several; all by default.
        train_affine: For ``"frozen"``, whether scales and shifts are trained.

    Returns:
        The names of the layers that were replaced; none if all are of the kind.

    Raises:
        ValueError: If ``kind`` is unknown, there is nothing to replace, a pattern matches no such layer, a layer does
            something of its own besides, or cannot be made one of this kind.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        >>> replace_norms_(net, "group"), net[1].num_groups
        (('1',), 4)
        >>> replace_norms_(net, "group")
        ()
    """
    check_choice("kind", kind, get_args(NormKind))
    norms = _chosen(network, layers)
    changing = {name: norm for name, norm in norms.items() if not _is_of(norm, kind, train_affine)}
    for name, norm in changing.items():
        _check(name, norm, kind)
    # asked for before anything changes, and where it matters
    matter = kind == "none" or any(isinstance(norm, NoNorm) for norm in changing.values())
    branches = residual_branches(network) if changing and matter else []
    parents = {}
    for name, norm in changing.items():
        owner = name.rpartition(".")[0]
        parents[owner] = network.get_submodule(owner)
        _swap_all(network, norm, _replacement(norm, kind, parents[owner], train_affine))
    for owner, parent in parents.items():
        _standardize_beside(owner, parent)
    for branch in branches:
        inside = [name for name in _below(network, branch) if name in changing]
        if inside and kind == "none":
            _begin_at_zero(network, branch, inside)
        elif inside:
            detach(network.get_submodule(branch.end), _GAIN)
    return tuple(changing)


def _chosen(network: nn.Module, layers: Pattern) -> dict[str, nn.Module]:
    halves = [half for dual in dual_norms(network) for half in (dual.clean, dual.adversarial)]
    found: dict[str, nn.Module] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, _NORMS) and not any(layer is half for half in halves):
            found[name] = layer
    if not found:
        raise ValueError(
            f"{type(network).__name__} has no BatchNorm, GroupNorm or InstanceNorm to replace; build its layers before "
            "training starts, or leave the ablation out."
        )
    patterns = as_patterns(layers, "layers")
    if patterns is None:
        return found
    return matching(found, patterns, "layers=", f"normalisation layer of {type(network).__name__}")


def _is_of(norm: nn.Module, kind: NormKind, train_affine: bool) -> bool:
    if isinstance(norm, nn.GroupNorm):
        return kind in ("group", "layer") and norm.num_groups == _groups(kind, norm.num_channels)
    if isinstance(norm, FrozenBatchNorm):
        return kind == "frozen" and _trains(norm) in (train_affine, None)
    own: Mapping[str, type[nn.Module]] = {"batch": _BATCH, "instance": _INSTANCE, "none": NoNorm, "dual": DualBatchNorm}
    return kind in own and isinstance(norm, own[kind])


def _trains(norm: nn.Module) -> bool | None:
    return next((parameter.requires_grad for parameter in norm.parameters(recurse=False)), None)


def _groups(kind: NormKind, channels: int) -> int:
    return 1 if kind == "layer" else int(make_norm("group", channels).num_groups)  # type: ignore[arg-type]


def _check(name: str, norm: nn.Module, kind: NormKind) -> None:
    if type(norm).forward not in _FORWARDS and not _has_activation(norm):
        raise ValueError(
            f"layer {name!r} is a {type(norm).__name__}, which does something of its own that would be lost; choose "
            "others with layers=[...]."
        )
    if isinstance(norm, nn.modules.lazy.LazyModuleMixin) and norm.has_uninitialized_params():
        raise ValueError(f"layer {name!r} does not know its channels yet; run a batch through the network first.")
    if kind == "instance" and _dims(norm) == 1:
        raise ValueError(
            f"layer {name!r} normalises features without positions, or with one dimension of them, where "
            "kind='instance' would normalise single values; choose others with layers=[...], or kind='layer'."
        )
    kept = _kept(norm)
    keeps_statistics = isinstance(kept, FrozenBatchNorm | _BATCH) and kept.running_mean is not None
    if kind == "frozen" and not keeps_statistics:
        raise ValueError(
            f"kind='frozen' keeps the statistics of BatchNorm, and layer {name!r} is a {type(norm).__name__} that has "
            "none; choose others with layers=[...]."
        )


def _has_activation(norm: nn.Module) -> bool:
    # timm's BatchNormAct2d and GroupNormAct: normalise, drop, activate
    return list(norm._modules) == ["drop", "act"]


def _dims(norm: nn.Module) -> int:
    known = next((dims for base, dims in _DIMS.items() if isinstance(norm, base)), 2)
    return int(getattr(norm, "replaced_dims", known))


def _replacement(norm: nn.Module, kind: NormKind, parent: nn.Module, train_affine: bool) -> nn.Module:
    channels = int(getattr(norm, "num_features", 0) or norm.num_channels)  # type: ignore[arg-type]
    dims, eps = _dims(norm), float(getattr(norm, "eps", 1e-5))
    new: nn.Module
    if kind == "batch":
        new = _BATCH_OF[dims](channels, eps=eps)
    elif kind == "instance":
        new = _INSTANCE_OF[dims](channels, eps=eps, affine=True)
    elif kind == "none":
        new = NoNorm(channels)
    elif kind == "frozen":
        new = FrozenBatchNorm(channels, eps)
    elif kind == "dual":
        new = DualBatchNorm(channels, dims=dims, eps=eps, momentum=getattr(norm, "momentum", 0.1))
    else:
        new = nn.GroupNorm(_groups(kind, channels), channels, eps=eps)
    # of two halves, one gives what it learned, and both begin with it
    source, target = _kept(norm), new.clean if isinstance(new, DualBatchNorm) else new
    held = next(chain(source.parameters(recurse=False), source.buffers(recurse=False)), None)
    if held is not None:
        new.to(device=held.device, dtype=held.dtype if held.is_floating_point() else None)
    for name in ("weight", "bias"):
        setattr(target, name, getattr(source, name))
    if kind in ("batch", "frozen", "dual"):
        for name in _STATISTICS:
            if isinstance(getattr(source, name, None), Tensor):
                setattr(target, name, getattr(source, name))
    if isinstance(new, DualBatchNorm):
        new.adversarial = deepcopy(target)
    _set_trained(norm, new, train_affine)
    new.train(parent.training if isinstance(norm, FrozenBatchNorm) else norm.training)
    # which a GroupNorm does not know
    new.replaced_dims = dims  # type: ignore[assignment]
    if not any(isinstance(hook, After) for hook in norm._forward_hooks.values()) and _has_activation(norm):
        for name, layer in norm.named_children():
            attach(new, name, layer)
    hand_over(norm, new)
    return new


def _kept(norm: nn.Module) -> nn.Module:
    return norm.evaluated if isinstance(norm, DualBatchNorm) else norm


def _set_trained(norm: nn.Module, new: nn.Module, train_affine: bool) -> None:
    if isinstance(new, FrozenBatchNorm) or isinstance(norm, FrozenBatchNorm):
        for parameter in new.parameters(recurse=False):
            parameter.requires_grad_(train_affine or not isinstance(new, FrozenBatchNorm))


def _swap_all(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


def _below(network: nn.Module, branch: Branch) -> list[str]:
    return [
        f"{layer}.{name}" if name else layer
        for layer in branch.layers
        for name, _ in network.get_submodule(layer).named_modules()
    ]


def _standardize_beside(name: str, parent: nn.Module) -> None:
    layers = dict(parent.named_children())
    if not any(isinstance(layer, NoNorm) for layer in layers.values()):
        for layer in layers.values():
            unstandardize_(layer)
        return
    convolutions = {child: layer for child, layer in layers.items() if isinstance(layer, nn.modules.conv._ConvNd)}
    refused = [
        child for child, layer in convolutions.items() if not standardize_(layer) and layer.weight[0].numel() > 1
    ]
    if refused:
        names = ", ".join(f"{name}.{child}".lstrip(".") for child in refused)
        warnings.warn(
            f"without normalisation, the weights of {names} should be standardised, but these layers are no "
            "plain convolutions of PyTorch; training may not get far.",
            stacklevel=3,
        )


@torch.no_grad()
def _begin_at_zero(network: nn.Module, branch: Branch, inside: Sequence[str]) -> None:
    end = network.get_submodule(branch.end)
    scales = [scale for name in inside if isinstance(scale := network.get_submodule(name).weight, nn.Parameter)]
    if isinstance(end, NoNorm) and end.weight is not None:
        end.weight.zero_()
    elif not hasattr(end, _GAIN):
        for scale in scales:
            if not scale.any():
                # zero in both places would get no gradient in either
                scale.fill_(1)
        gain = SkipGain()
        attach(end, _GAIN, gain.to(scales[0].device, scales[0].dtype) if scales else gain)
