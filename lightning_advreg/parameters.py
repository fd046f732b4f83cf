"""Which parameters a penalty or a constraint acts on."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, TypeVar

from torch import Tensor, nn

from lightning_advreg.values import Number, to_float

__all__ = ["Pattern", "matches", "parameter_groups", "weights"]

T = TypeVar("T")

Pattern: TypeAlias = str | Sequence[str] | None
"""Names of parameters with ``*``, ``?`` and ``[...]`` as in file names, one or several, or None for all."""


def weights(
    module: nn.Module, *, include_biases: bool = False, pattern: Pattern = None, include_frozen: bool = False
) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the named parameters that regularisation acts on, each once: those that are trained.

    Weights are the parameters with two dimensions or more: kernels, matrices, embeddings. Biases and the scales of
    normalisation layers have one, and are left out, since pulling them to zero limits what the network can centre and
    scale without limiting its capacity.

    Args:
        module: The network.
        include_biases: Yield biases and normalisation scales too.
        pattern: Yield those alone whose names, as in ``module.named_parameters()``, match it, such as
            ``"features.*"``; or one of several patterns. ``*`` stands for any text, dots included.
        include_frozen: Yield parameters that are not trained at the moment too.

    Yields:
        Names and parameters, in the order of ``module.named_parameters()``.

    Raises:
        ValueError: If a pattern matches no name, or nothing but biases and scales that are left out. One that matches
            frozen parameters alone is fine: they may be trained later.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))
        >>> [name for name, _ in weights(net)]
        ['0.weight', '1.weight']
        >>> [name for name, _ in weights(net, pattern="1.*", include_biases=True)]
        ['1.weight', '1.bias']
    """
    patterns = as_patterns(pattern)
    # the scales of a LayerNorm over (C, H, W) have three dimensions, and are scales all the same
    scales = {id(p) for child in module.modules() if isinstance(child, nn.LayerNorm) for p in child.parameters()}
    found, unmatched, seen = [], set(patterns or ()), set()
    # with duplicates: a tied weight goes by any of its names
    for name, parameter in module.named_parameters(remove_duplicate=patterns is None):
        if not (include_biases or (parameter.dim() > 1 and id(parameter) not in scales)):
            continue
        if patterns is not None:
            matching = [p for p in patterns if matches(name, p)]
            unmatched.difference_update(matching)
            if not matching or id(parameter) in seen:
                continue
            seen.add(id(parameter))
        if include_frozen or parameter.requires_grad:
            found.append((name, parameter))
    if unmatched:
        raise ValueError(_no_match(module, sorted(unmatched)[0], include_biases))
    yield from found


def parameter_groups(
    module: nn.Module, weight_decay: Number | None = None, *, exempt: Pattern = None
) -> list[dict[str, Any]]:
    """Give the parameters of a network in two groups for an optimizer: weights, and those that are not to decay.

    Without weight decay are biases, the scales and shifts of normalisation layers, and all else with one dimension, as
    :func:`weights` has it. Weight decay on them limits what the network can centre and scale, not its capacity, and
    the usual recipes leave it out (He et al. 2019, section 3.1, "no bias decay").

    Args:
        module: The network.
        weight_decay: Of the weights, at least 0; None for the optimizer's own, given beside the groups.
        exempt: Names of weights that are not to decay either, as in ``module.named_parameters()``, such as
            ``"*.embedding.weight"``; or several.

    Returns:
        The groups that are not empty, in which each parameter of the network is once, frozen ones too.

    Raises:
        ValueError: If ``weight_decay`` is negative, or a name matches no weight.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        >>> optimizer = torch.optim.SGD(parameter_groups(net, 5e-4), lr=0.1)
        >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
        [(1, 0.0005), (3, 0.0)]
    """
    decayed = {id(p) for _, p in weights(module, include_frozen=True)}
    if exempt is not None:
        decayed -= {id(p) for _, p in weights(module, pattern=exempt, include_frozen=True)}
    strength = {} if weight_decay is None else {"weight_decay": to_float(weight_decay, "weight_decay", minimum=0)}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in module.parameters() if id(p) in decayed], **strength},
        {"params": [p for p in module.parameters() if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def matches(name: str, pattern: str) -> bool:
    """Tell whether the name of a parameter or a layer matches a pattern.

    Example:
        >>> matches("features.0.weight", "features.*"), matches("head.weight", "features.*")
        (True, False)
    """
    # a network compiled with torch.compile has its names below _orig_mod
    return fnmatchcase(name.replace("_orig_mod.", ""), pattern)


def as_patterns(pattern: Pattern, name: str = "pattern") -> tuple[str, ...] | None:
    """Check a pattern or several, as users give them.

    Args:
        pattern: The argument.
        name: Its name, for the error message.

    Returns:
        The patterns, or None for all names.

    Raises:
        TypeError: If it is not text, or a list of texts.
        ValueError: If the list, or a text of it, is empty.

    Example:
        >>> as_patterns("features.*"), as_patterns(None)
        (('features.*',), None)
    """
    if pattern is None:
        return None
    patterns = (pattern,) if isinstance(pattern, str) else tuple(pattern) if isinstance(pattern, Sequence) else None
    if patterns is None or not all(isinstance(p, str) for p in patterns):
        raise TypeError(f"{name} must be a name such as 'features.*', or a list of names, got {pattern!r}.")
    if not patterns or not all(patterns):
        raise ValueError(f"{name} must name something, got {pattern!r}; leave it out to select everything.")
    return patterns


def matching(named: Mapping[str, T], patterns: Sequence[str], label: str, what: str) -> dict[str, T]:
    """Choose by name, and see to it that every pattern chooses something.

    Args:
        named: What there is, by name.
        patterns: The patterns.
        label: What stands before a pattern in the error message, such as ``"layers="``.
        what: What there is, for the error message, such as ``"layer of MyNetwork"``.

    Returns:
        What matches one pattern at least, in the order of ``named``.

    Raises:
        ValueError: If a pattern matches nothing.

    Example:
        >>> matching({"stem": 1, "head.fc": 2}, ["head.*"], "layers=", "layer of Net")
        {'head.fc': 2}
    """
    for pattern in patterns:
        if not any(matches(name, pattern) for name in named):
            raise ValueError(
                f"{label}{pattern!r} matches no {what}; the nearest names are {nearest_names(pattern, list(named))}. A "
                "pattern must match the whole name, as in 'layer4.*'."
            )
    return {name: value for name, value in named.items() if any(matches(name, pattern) for pattern in patterns)}


def nearest_names(pattern: str, names: Sequence[str]) -> str:
    """List the names most like a pattern, or the first ones where none is, for an error message.

    Example:
        >>> nearest_names("feature.*", ["features.0.weight", "head.weight"])
        "'features.0.weight'"
    """
    bare = pattern.replace("*", "")
    # as long as the pattern: a long name that starts like it is near
    near = [n for n in names if difflib.SequenceMatcher(None, bare, n[: len(bare) + 1]).ratio() >= 0.7]
    near.sort(key=lambda n: -difflib.SequenceMatcher(None, bare, n).ratio())
    return ", ".join(repr(name) for name in (near or list(names))[:3])


def _no_match(module: nn.Module, pattern: str, include_biases: bool) -> str:
    names = [name.replace("_orig_mod.", "") for name, _ in module.named_parameters(remove_duplicate=False)]
    if not include_biases and any(matches(name, pattern) for name in names):
        return (
            f"pattern {pattern!r} matches biases and normalisation scales alone, which are left out unless "
            "include_biases is true; name a weight, or set include_biases=True where there is such a setting."
        )
    if not names:
        return f"pattern {pattern!r} matches no parameter: {type(module).__name__} has none."
    return (
        f"pattern {pattern!r} matches no parameter of {type(module).__name__}; the nearest names are "
        f"{nearest_names(pattern, names)}. A pattern must match the whole name, as in 'features.*'."
    )


def as_matrix(module: nn.Module, name: str, weight: Tensor) -> Tensor:
    """Give a weight as a matrix with one row for each unit: a row of a matrix, an output channel, an embedding.

    For a convolution this is the kernel laid out flat, not the larger matrix that maps images to images.

    Args:
        module: The network.
        name: The name of the weight in it.
        weight: The weight.

    Returns:
        ``(out, rest)``, a view where one is possible. A parameter with one dimension has rows of one entry.

    Example:
        >>> conv, up = nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3, groups=2)
        >>> as_matrix(conv, "weight", conv.weight).shape, as_matrix(up, "weight", up.weight).shape
        (torch.Size([6, 36]), torch.Size([6, 18]))
    """
    owner = module.get_submodule(name.rpartition(".")[0])
    if weight.dim() > 2 and isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        # (in, out / groups, ...), where a group of inputs has outputs of its own; all others store (out, in, ...)
        return weight.unflatten(0, (owner.groups, -1)).transpose(1, 2).flatten(0, 1).flatten(1)
    return weight.flatten(1) if weight.dim() > 1 else weight.unsqueeze(1)
