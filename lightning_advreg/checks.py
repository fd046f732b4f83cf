"""Checks of images, labels and logits: one clear error before any time is spent."""

import math

import torch
from torch import Tensor, nn

RANGE_TOLERANCE = 1e-4
"""How far outside [0, 1] a pixel may lie before it is an error: room for the rounding of resizing."""

_SHARES_TOLERANCE = 2e-2
"""How far from 1 the shares of an image may sum to: room for the rounding of half precision."""


def check_batch(x: Tensor, y: Tensor | None = None, *, num_classes: int | None = None) -> None:
    """Check that a batch is what every network and attack of this library expects.

    The ranges of ``x`` and ``y`` are read from the device together, in one synchronisation.

    Args:
        x: Images, floating point in [0, 1], of shape ``(N, ...)``.
        y: Labels, integers in ``[0, num_classes)``, of shape ``(N,)``.
        num_classes: The number of classes, where it is known.

    Raises:
        TypeError: If ``x`` is not floating point or ``y`` is not integer.
        ValueError: If shapes disagree, the batch is empty, pixels lie outside [0, 1], or labels are out of range.

    Example:
        >>> check_batch(torch.rand(2, 1, 28, 28), torch.tensor([0, 9]), num_classes=10)
        >>> check_batch(torch.full((1, 1, 28, 28), 255.0))
        Traceback (most recent call last):
        ...
        ValueError: images must lie in [0, 1], got values from 255 to 255; divide by 255 in the data, ...
    """
    check_types(x, y)
    bounds = torch.stack([*(b.float() for b in x.detach().aminmax()), *(b.float() for b in _label_bounds(y))]).tolist()
    low, high = bounds[:2]
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"images must lie in [0, 1], got values from {low:g} to {high:g}; NaN and infinite pixels come from the "
            "data or its augmentation: find the images with ~x.isfinite().flatten(1).all(1)."
        )
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise ValueError(
            f"images must lie in [0, 1], got values from {low:g} to {high:g}; divide by 255 in the data, and move any "
            "normalisation into the network as its first layer (lightning_advreg.networks.Normalize)."
        )
    if y is None:
        return
    first, last = (int(b) for b in bounds[2:])
    _check_label_range(first, last, num_classes)


def check_types(x: Tensor, y: Tensor | None = None) -> None:
    """Check dtypes and shapes of a batch, without touching its values (no device synchronisation).

    Args:
        x: Images, floating point, of shape ``(N, ...)``.
        y: Labels, integers, of shape ``(N,)``.

    Raises:
        TypeError: If ``x`` is not floating point or ``y`` is not integer.
        ValueError: If shapes disagree or the batch is empty.
    """
    if not x.is_floating_point():
        raise TypeError(
            f"images must be floating point in [0, 1], got {x.dtype}; convert with `x.float() / 255` or "
            "torchvision.transforms.v2.functional.to_dtype(x, torch.float32, scale=True)."
        )
    if x.dim() < 2 or x.numel() == 0:
        raise ValueError(f"images must be a batch (N, C, H, W) with at least one image, got shape {tuple(x.shape)}.")
    if y is None:
        return
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"labels must be integer class indices, got {y.dtype}; convert with `y.long()`.")
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels must have shape ({len(x)},), one per image, got {tuple(y.shape)}.")


def check_labels(y: Tensor, num_classes: int | None = None) -> None:
    """Check the values of labels. They are read from the device, so this belongs to the first batch, not to each.

    Args:
        y: Labels, integers in ``[0, num_classes)``, of shape ``(N,)`` with N of at least 1.
        num_classes: The number of classes, where it is known.

    Raises:
        ValueError: If there is none, or one is out of range.

    Example:
        >>> check_labels(torch.tensor([0, 9]), num_classes=10)
        >>> check_labels(torch.tensor([1, 10]), num_classes=10)
        Traceback (most recent call last):
        ...
        ValueError: labels must be in [0, 10), for 10 classes, got labels from 1 to 10; renumber the labels from 0, ...
    """
    if y.dim() != 1 or y.numel() == 0:
        raise ValueError(f"labels must have shape (N,) with at least one label, got {tuple(y.shape)}.")
    first, last = torch.stack(y.aminmax()).tolist()
    _check_label_range(first, last, num_classes)


def check_logits(logits: Tensor, num_classes: int, *, source: str = "the data") -> None:
    """Check that a network gives one logit per class.

    Args:
        logits: What the network gave for a batch.
        num_classes: How many classes there are.
        source: Who says so, for the message.

    Raises:
        ValueError: If ``logits`` is not of shape ``(N, num_classes)``.
    """
    if logits.dim() != 2 or logits.shape[1] != num_classes:
        raise ValueError(
            f"the network gives outputs of shape {tuple(logits.shape)}, but {source} has {num_classes} classes; "
            f"give it logits of shape (N, {num_classes}), for networks of this library with num_classes={num_classes}."
        )


def check_statistics(network: nn.Module, images: int, name: str = "network") -> None:
    """Check that BatchNorm has a batch to take its statistics from.

    Of one image, it would subtract from each channel the channel's own mean, and from a single value that value. Frozen
    layers, in evaluation mode, are left alone, and so is ``SyncBatchNorm``, whose batch is that of all processes.

    Args:
        network: The network, in the mode in which it is trained.
        images: How many images a batch has, in this process.
        name: What to call the network.

    Raises:
        ValueError: If there is one image, and a layer that takes statistics of batches.

    Example:
        >>> check_statistics(nn.BatchNorm2d(3).eval(), 1)
        >>> check_statistics(nn.Sequential(nn.BatchNorm2d(3)), 1)
        Traceback (most recent call last):
        ...
        ValueError: a batch of 1 image gives BatchNorm no statistics (BatchNorm2d '0' of the network); set ...
    """
    if images != 1:
        return
    for key, layer in network.named_modules():
        alone = isinstance(layer, nn.modules.batchnorm._BatchNorm) and not isinstance(layer, nn.SyncBatchNorm)
        if alone and layer.training:
            raise ValueError(
                f"a batch of 1 image gives BatchNorm no statistics ({type(layer).__name__} {key!r} of the {name}); "
                "set batch_size of the data to 2 or more, or build the network with norm='group'."
            )


def check_shares(shares: Tensor, logits: Tensor) -> None:
    """Check labels that are shares of classes, as mixup gives them.

    Args:
        shares: Floating point, of shape ``(N, K)``, at least 0 and with rows of sum 1.
        logits: Logits ``(..., K)`` of the network.

    Raises:
        ValueError: If they are none, or of another number of classes than the logits.

    Example:
        >>> check_shares(torch.tensor([[0.3, 0.7]]), torch.zeros(1, 2))
        >>> check_shares(torch.tensor([[3.0, 7.0]]), torch.zeros(1, 2))
        Traceback (most recent call last):
        ...
        ValueError: labels that are shares of classes must be at least 0 and sum to 1, got shares from 3 to 7; ...
    """
    if shares.dim() != 2 or shares.shape[1] != logits.shape[-1]:
        raise ValueError(
            f"labels that are shares of classes must have shape (N, {logits.shape[-1]}), a share for each logit, got "
            f"{tuple(shares.shape)}; set num_classes of the augmentation, or the number of outputs of the network."
        )
    low, high = shares.aminmax()
    if not bool((low >= 0) & ((shares.sum(1) - 1).abs() < _SHARES_TOLERANCE).all()):
        raise ValueError(
            f"labels that are shares of classes must be at least 0 and sum to 1, got shares from {low.item():g} to "
            f"{high.item():g}; divide them by their sum, or give class indices."
        )


def _check_label_range(first: int, last: int, num_classes: int | None) -> None:
    if first < 0 or (num_classes is not None and last >= num_classes):
        allowed = "0 or more" if num_classes is None else f"in [0, {num_classes}), for {num_classes} classes"
        raise ValueError(
            f"labels must be {allowed}, got labels from {first} to {last}; renumber the labels from 0, or give the "
            "network as many outputs as there are classes (num_classes)."
        )


def _label_bounds(y: Tensor | None) -> tuple[Tensor, ...]:
    return () if y is None else tuple(y.aminmax())
