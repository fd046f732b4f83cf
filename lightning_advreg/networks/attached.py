"""Layers that are hung on to a layer of a foreign network, without a change of any name or type."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class After:
    """A forward hook that hands what a layer gives to a child of it.

    Args:
        name: The child's name.
    """

    name: str

    def __call__(self, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Give the child's output."""
        attached: Tensor = getattr(layer, self.name)(output)
        return attached


@dataclass(frozen=True)
class Before:
    """A forward pre-hook that hands the first argument of a layer to a child of it.

    Args:
        name: The child's name.
    """

    name: str

    def __call__(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give the arguments of the layer."""
        return getattr(layer, self.name)(args[0]), *args[1:]


def attach(layer: nn.Module, name: str, extra: nn.Module, *, before: bool = False) -> None:
    """Let another layer work on what a layer gives, or on what it is given.

    The layer stays the object it is, with its type and the names of its parameters, so that code which looks at them,
    and checkpoints, see no difference. The other one becomes a child of it: it follows ``train`` and ``eval``, moves
    between devices, and its parameters are trained.

    Args:
        layer: The layer, changed in place.
        name: The name of the child, which must be free.
        extra: What works before or after it, from one tensor to one.
        before: Whether it works on the layer's first argument, rather than on its output.

    Raises:
        TypeError: If the layer is a container, which has no input and output of its own, or may call its children.
        ValueError: If it has something of this name.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 1)
        >>> attach(layer, "bound", nn.Hardtanh())
        >>> layer.weight.data.fill_(5.0), layer(torch.ones(1, 2)).item(), [name for name, _ in layer.named_parameters()]
        (tensor([[5., 5.]]), 1.0, ['weight', 'bias'])
    """
    if isinstance(layer, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        raise TypeError(f"nothing can be attached to the container {type(layer).__name__}; name a layer within it.")
    if hasattr(layer, name):
        raise ValueError(f"{type(layer).__name__} has a {name!r} already; detach it first.")
    layer.add_module(name, extra)
    if before:
        layer.register_forward_pre_hook(Before(name))
    else:
        layer.register_forward_hook(After(name))


def detach(layer: nn.Module, name: str) -> bool:
    """Take off what was attached to a layer under a name.

    Args:
        layer: The layer, changed in place.
        name: The name it was attached under.

    Returns:
        Whether there was anything.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> attach(layer, "bound", nn.Hardtanh())
        >>> detach(layer, "bound"), detach(layer, "bound"), layer
        (True, False, Linear(in_features=2, out_features=1, bias=True))
    """
    found = False
    for hooks in (layer._forward_hooks, layer._forward_pre_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, After | Before) and hook.name == name:
                del hooks[key]
                found = True
    if found:
        delattr(layer, name)
    return found


def hand_over(old: nn.Module, new: nn.Module) -> None:
    """Give the hooks of a layer, and what is attached to it, to the layer that takes its place.

    Args:
        old: The layer that goes.
        new: The layer that comes, changed in place.

    Example:
        >>> old, new = nn.BatchNorm1d(3), nn.Identity()
        >>> attach(old, "drop", nn.Dropout(0.1))
        >>> hand_over(old, new)
        >>> new
        Identity(
          (drop): Dropout(p=0.1, inplace=False)
        )
    """
    for kind in (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
    ):
        getattr(new, kind).update(getattr(old, kind))
    for hook in (*old._forward_hooks.values(), *old._forward_pre_hooks.values()):
        if isinstance(hook, After | Before):
            new.add_module(hook.name, getattr(old, hook.name))
