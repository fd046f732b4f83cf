"""Batches of foreign modules: taken apart, and put together again."""

from collections.abc import MutableMapping, Sequence
from copy import copy
from typing import cast

from torch import Tensor


def taken_apart(batch: object, keys: tuple[str, str], callback: str = "AdversarialTraining") -> tuple[Tensor, Tensor]:
    """Give images and labels of a batch.

    Args:
        batch: ``(x, y)``, ``[x, y]``, or a dict.
        keys: The keys of images and labels in a dict.
        callback: Who asks, for the message.

    Raises:
        TypeError: If it is none of these.
    """
    pair: Sequence[object] = ()
    found = type(batch).__name__
    if isinstance(batch, MutableMapping):
        pair = [batch[key] for key in keys if key in batch]
        found += f" with the keys {', '.join(str(key) for key in batch)}"
    elif isinstance(batch, list | tuple):
        pair = batch
        found += f" of {', '.join(type(part).__name__ for part in batch)}"
    if len(pair) != 2 or not (isinstance(pair[0], Tensor) and isinstance(pair[1], Tensor)):
        raise TypeError(
            f"{callback} needs batches (x, y) of two tensors, or dicts with the keys {keys[0]!r} and "
            f"{keys[1]!r}, got {found}; set keys=(...), or change batches in the loader's collate_fn or in "
            "`on_after_batch_transfer` of the module."
        )
    return pair[0], pair[1]


def put_together(batch: object, keys: tuple[str, str], x: Tensor, y: Tensor | None = None) -> object:
    """Give a batch like ``batch``, with images ``x`` in place of its own; ``batch`` stays as it is.

    Args:
        batch: ``(x, y)``, ``[x, y]``, or a dict.
        keys: The keys of images and labels in a dict.
        x: The images.
        y: The labels; None for those of the batch.

    Example:
        >>> import torch
        >>> put_together([torch.zeros(1), torch.zeros(1)], ("image", "label"), torch.ones(1))
        [tensor([1.]), tensor([0.])]
    """
    if isinstance(batch, MutableMapping):
        changed = copy(batch)
        changed[keys[0]] = x
        if y is not None:
            changed[keys[1]] = y
        return changed
    y = cast(Sequence[Tensor], batch)[1] if y is None else y
    if hasattr(batch, "_fields"):  # a named tuple
        return type(batch)(x, y)  # type: ignore[call-arg]
    return [x, y] if isinstance(batch, list) else (x, y)


def check_labels(y: Tensor) -> None:
    """Check that labels are class indices ``(N,)``.

    Raises:
        TypeError: If they are one-hot or soft.
    """
    if y.is_floating_point() or y.dim() != 1:
        raise TypeError(
            f"labels must be class indices, integers of shape (N,), got {y.dtype} of shape {tuple(y.shape)}; an attack "
            "cannot leave a mixture of classes. Turn one-hot labels into indices with y.argmax(1), and mixup or CutMix "
            "of the data off."
        )
