"""Fold BatchNorm into the layer before it: one layer less, of the same function."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

_NORMS: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    nn.Linear: (nn.BatchNorm1d, nn.SyncBatchNorm),
    nn.Conv1d: (nn.BatchNorm1d, nn.SyncBatchNorm),
    nn.Conv2d: (nn.BatchNorm2d, nn.SyncBatchNorm),
    nn.Conv3d: (nn.BatchNorm3d, nn.SyncBatchNorm),
}
_ALL_NORMS = tuple({norm for norms in _NORMS.values() for norm in norms})


Fuse: TypeAlias = Callable[[nn.Module, nn.Module], nn.Module | None]
"""From a layer and the BatchNorm after it to a layer that does the work of both, or None to leave them."""


def fused(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """Fuse a convolution or linear layer with the BatchNorm after it into one of its kind."""
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_eval(layer, cast(nn.BatchNorm1d, norm))
    return fuse_conv_bn_eval(cast(nn.Conv2d, layer), cast(nn.BatchNorm2d, norm))


def fold_batchnorm(module: nn.Module, example: Tensor, fuse: Fuse = fused) -> int:
    """Fold every BatchNorm that follows a convolution or linear layer into that layer, in place.

    In eval mode a BatchNorm is an affine map per channel, ``y = gamma (z - mu) / sqrt(var + eps) + beta``, and for
    ``z = w * x + b`` it is a convolution again, with ``w' = gamma w / sqrt(var + eps)`` and
    ``b' = gamma (b - mu) / sqrt(var + eps) + beta``. Which layers follow each other is observed in one pass of
    ``example``, since networks that look at their data cannot be traced. The output of the convolution may be used
    elsewhere too, which makes its fold wrong: where the outputs on ``example`` change, the folds at fault are found by
    bisection and undone.

    What was observed holds for ``example``. A network whose path depends on its data could go another way on other
    images, so whatever is found on a folded network has to be confirmed on the original.

    Args:
        module: The network, changed in place: pass a copy. Layers are folded that are in eval mode, of exactly the
            types of PyTorch, without hooks or parametrisations, and used once in a pass.
        example: Some images that ``module`` maps to one tensor.
        fuse: Makes the layer that does the work of both.

    Returns:
        The number of BatchNorm layers folded.

    Raises:
        TypeError: If ``module`` does not give a tensor.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> fold_batchnorm(net, torch.rand(2, 3, 8, 8))
        1
        >>> net[1]
        Identity()
    """
    with torch.no_grad():
        pairs, expected = _observe(module, example, fuse)
        return _fold(pairs, module, example, expected)


def agree(output: object, expected: Tensor) -> bool:
    """Whether two outputs are equal up to rounding, relative to the largest finite entry.

    Allowed are 1e-3 of that entry plus 1e-5; on CUDA 1e-2, where convolutions run in TF32; in half precision 1e-1.

    Args:
        output: What to judge.
        expected: What it should be, floating point of any shape.

    Example:
        >>> agree(torch.tensor([1000.5, 2.0]), torch.tensor([1000.0, 2.5]))
        True
        >>> agree(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.5]))
        False
    """
    if not isinstance(output, Tensor) or output.shape != expected.shape:
        return False
    relative = 1e-1 if expected.dtype.itemsize < 4 else 1e-2 if expected.is_cuda else 1e-3
    scale = expected.detach().double().nan_to_num(0, 0, 0).abs().amax().item() if expected.numel() else 0.0
    return torch.allclose(output.double(), expected.double(), rtol=0, atol=relative * scale + 1e-5, equal_nan=True)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer does what its type says: no hooks and no ``forward`` of its own; parametrised ones change type.

    Example:
        >>> is_plain(nn.Linear(2, 2))
        True
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return not any(hooks) and "forward" not in layer.__dict__


def swap(module: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` in every place of the tree under ``module`` where ``old`` is registered."""
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new


@dataclass(frozen=True)
class _Pair:
    """A convolution or linear layer, the BatchNorm that reads its output, and what takes their places."""

    layer: nn.Module
    norm: nn.Module
    fused: nn.Module
    identity: nn.Module = field(default_factory=lambda: nn.Identity().eval())

    def fold(self, module: nn.Module) -> None:
        swap(module, self.layer, self.fused)
        swap(module, self.norm, self.identity)

    def undo(self, module: nn.Module) -> None:
        swap(module, self.fused, self.layer)
        swap(module, self.identity, self.norm)


def _observe(module: nn.Module, example: Tensor, fuse: Fuse) -> tuple[list[_Pair], Tensor]:
    # tensors with their versions, which tell whether an activation in place came between; not ids, which come back
    outputs: dict[nn.Module, list[tuple[Tensor, int]]] = {}
    inputs: dict[nn.Module, list[tuple[Tensor, int]]] = {}

    def leave(layer: nn.Module, arguments: object, keywords: object, output: Tensor) -> None:
        outputs.setdefault(layer, []).append((output, output._version))

    def enter(norm: nn.Module, arguments: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> None:
        x = (*arguments, *keywords.values())[0]
        inputs.setdefault(norm, []).append((x, x._version))

    handles = []
    try:
        for child in list(module.modules()):
            if not is_plain(child):
                continue
            if type(child) in _NORMS:
                handles.append(child.register_forward_hook(leave, with_kwargs=True))
            elif type(child) in _ALL_NORMS and _is_affine(child):
                handles.append(child.register_forward_pre_hook(enter, with_kwargs=True))
        expected = module(example)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(expected, Tensor):
        raise TypeError(f"the network must give one tensor, got {type(expected).__name__}; wrap it to return logits.")
    pairs = []
    for layer, ((output, version), *more) in outputs.items():
        reads = [(norm, read, len(calls)) for norm, calls in inputs.items() for x, read in calls if x is output]
        if more or len(reads) != 1 or reads[0][1:] != (version, 1) or type(reads[0][0]) not in _NORMS[type(layer)]:
            continue
        if type(layer) is nn.Linear and output.dim() != 2:  # BatchNorm1d of (N, L, F) normalises L, not the features
            continue
        both = fuse(layer, reads[0][0])
        if both is not None:
            pairs.append(_Pair(layer, reads[0][0], both))
    return pairs, expected


def _is_affine(norm: nn.Module) -> bool:
    return not norm.training and norm.running_mean is not None and norm.running_var is not None


def _fold(pairs: list[_Pair], module: nn.Module, example: Tensor, expected: Tensor) -> int:
    for pair in pairs:
        pair.fold(module)
    if _still_gives(module, example, expected):
        return len(pairs)
    for pair in pairs:
        pair.undo(module)
    if len(pairs) < 2:
        return 0
    half = len(pairs) // 2
    return sum(_fold(part, module, example, expected) for part in (pairs[:half], pairs[half:]))


def _still_gives(module: nn.Module, example: Tensor, expected: Tensor) -> bool:
    try:
        return agree(module(example), expected)
    except Exception:  # a network that looks at its layers can fail in any way once they are others
        return False
