"""Borrow a model for an attack, and give it back exactly as it was."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

Model: TypeAlias = Callable[[Tensor], Tensor]
"""Any callable from [0, 1] images ``(N, C, H, W)`` to logits ``(N, K)``: an nn.Module or a function."""

ModelMode: TypeAlias = Literal["eval", "train", "batch_stats"]
"""How the network runs while it is attacked.

``eval``: BatchNorm uses its running statistics and dropout is off. ``batch_stats``: training mode, but the running
statistics of BatchNorm stay as they are. ``train``: training mode, and every forward pass of the attack updates them.
A network that is in training mode already keeps the flags of its layers, so that frozen layers stay frozen.
"""

_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def underlying_module(model: Model) -> nn.Module | None:
    """Find the nn.Module behind a model: itself, or the object that a bound method belongs to."""
    owner = getattr(model, "__self__", model)
    return owner if isinstance(owner, nn.Module) else None


@contextmanager
def borrowed(model: Model, mode: ModelMode = "eval") -> Iterator[None]:
    """Put a model into the state an attack needs: parameters frozen, in the given mode, gradients on.

    On exit the train flag of every submodule and ``requires_grad`` of every parameter are as they were, also after an
    error. Buffers of BatchNorm change in mode ``train`` alone. Works under ``no_grad`` and ``inference_mode``.

    Args:
        model: The model; a plain function is used as it is.
        mode: How the network runs meanwhile.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        >>> with borrowed(net):
        ...     print(net.training, net[0].weight.requires_grad)
        False False
        >>> net.training, net[0].weight.requires_grad
        (True, True)
    """
    module = underlying_module(model)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if module is not None:
            stack.enter_context(_frozen(module))
            stack.enter_context(in_mode(module, mode))
        yield


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    thawed = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in thawed:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in thawed:
            parameter.requires_grad_(True)


@contextmanager
def in_mode(module: nn.Module, mode: ModelMode) -> Iterator[None]:
    """Run a network in a mode, and give the flags of its layers back as they were.

    Args:
        module: The network.
        mode: How it runs meanwhile.

    Example:
        >>> net = nn.BatchNorm1d(2)
        >>> with in_mode(net, "batch_stats"):
        ...     _ = net(torch.rand(4, 2))
        >>> net.running_mean
        tensor([0., 0.])
    """
    changed: list[tuple[Any, str, Any]] = []

    def change(child: Any, name: str, value: object) -> None:  # noqa: ANN401
        changed.append((child, name, getattr(child, name)))
        setattr(child, name, value)

    keep_flags = mode != "eval" and module.training
    try:
        for child in module.modules():
            if not keep_flags:
                # not train(): Lightning and others override it; frozen layers are set back one by one below
                change(child, "training", mode != "eval")
            if mode == "batch_stats" and child.training and getattr(child, "track_running_stats", False):
                change(child, "track_running_stats", False)
                if isinstance(child, _INSTANCE_NORMS):
                    # these update whatever statistics they hold, tracked or not
                    change(child, "running_mean", None)
                    change(child, "running_var", None)
        yield
    finally:
        for child, name, value in reversed(changed):
            setattr(child, name, value)


@torch.no_grad()
def logit_variation(model: Model, x: Tensor) -> float:
    """Measure by how much logits differ between two passes over the same images: 0 for a deterministic model.

    Args:
        model: The model, in the state in which it is attacked.
        x: Images in [0, 1], of shape ``(N, ...)``; moved to the model's device.

    Returns:
        The largest absolute difference. The caller's random generators are left as they are.
    """
    images = x.to(device_of(model, x))
    with torch.random.fork_rng(devices=[images.device] if images.device.type == "cuda" else []):
        first, second = model(images), model(images)
    return (first - second).abs().max().item()


def device_of(model: Model, x: Tensor) -> torch.device:
    """Give the device of a network's first parameter or buffer, or that of ``x`` where there is none."""
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return x.device
