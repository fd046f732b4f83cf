"""Batches of foreign modules: taken apart, and put together again."""

from collections.abc import MutableMapping, Sequence
from copy import copy
from typing import Any, TypeAlias, cast

from torch import Tensor

Keys: TypeAlias = tuple[int | str, int | str]
"""Where a batch has its images and its labels: keys of a dict, fields of a named tuple, places in a tuple or list."""

KEYS: Keys = ("image", "label")
"""The keys that are looked for where none are named."""


def checked_keys(keys: Sequence[int | str]) -> Keys:
    """Check that keys are two, and give them as a tuple.

    Raises:
        ValueError: If they are not.

    Example:
        >>> checked_keys(["pixels", "class"])
        ('pixels', 'class')
    """
    given = () if isinstance(keys, str) or not isinstance(keys, Sequence) else tuple(keys)
    if len(given) != 2 or not all(isinstance(key, int | str) for key in given) or given[0] == given[1]:
        raise ValueError(
            "keys must be two, of images and of labels, such as ('image', 'label') or, for places in a tuple, (0, 1), "
            f"got {keys!r}."
        )
    return given


def taken_apart(batch: object, keys: Keys | None, callback: str) -> tuple[Tensor, Tensor]:
    """Give images and labels of a batch.

    Args:
        batch: A pair ``(x, y)`` or ``[x, y]``; or, with keys, a dict, a named tuple, or any tuple or list.
        keys: Where images and labels are; None takes pairs alone. Pairs need none, unless they come as ``(y, x)``.
        callback: Who asks, for the message.

    Raises:
        TypeError: If there are no two tensors there.

    Example:
        >>> import torch
        >>> x, y, mask = torch.ones(1), torch.zeros(1), torch.zeros(1)
        >>> taken_apart({"label": y, "mask": mask, "image": x}, KEYS, "RobustAccuracy")
        (tensor([1.]), tensor([0.]))
        >>> taken_apart((mask, x, y), (1, 2), "RobustAccuracy")
        (tensor([1.]), tensor([0.]))
    """
    places = _places(batch, keys)
    pair = [] if places is None else [cast(Any, batch)[place] for place in places]
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        known, remedy = "", "turn batches into pairs"
        if keys is not None:
            known = f", or with the keys {keys[0]!r} and {keys[1]!r}"
            remedy = f"set keys=(...) of {callback} to where images and labels are, or change batches"
        raise TypeError(
            f"{callback} needs batches (x, y) of images and labels{known}, got {_described(batch)}; {remedy} in the "
            "loader's collate_fn, or in `on_after_batch_transfer` of the module or data module."
        )
    return pair[0], pair[1]


def put_together(batch: object, keys: Keys, x: Tensor, y: Tensor | None = None) -> object:
    """Give a batch like ``batch``, with images ``x`` in place of its own; ``batch`` stays as it is.

    Args:
        batch: A batch that :func:`taken_apart` takes.
        keys: Where images and labels are.
        x: The images.
        y: The labels; None for those of the batch.

    Example:
        >>> import torch
        >>> put_together([torch.zeros(1), torch.zeros(1)], KEYS, torch.ones(1))
        [tensor([1.]), tensor([0.])]
    """
    image, label = cast(Keys, _places(batch, keys))
    changed: Any = copy(batch) if isinstance(batch, MutableMapping) else list(cast(Sequence[object], batch))
    changed[image] = x
    if y is not None:
        changed[label] = y
    if hasattr(batch, "_fields"):  # a named tuple
        return type(batch)(*changed)
    return tuple(changed) if isinstance(batch, tuple) else changed


def _places(batch: object, keys: Keys | None) -> Keys | None:
    """Give where images and labels are, in a form that indexes the batch; None if they are not there."""
    if isinstance(batch, MutableMapping):
        return keys if keys is not None and all(key in batch for key in keys) else None
    if not isinstance(batch, list | tuple):
        return None
    fields: Sequence[object] = getattr(batch, "_fields", ())
    if keys is not None and all(key in fields for key in keys):
        return fields.index(keys[0]), fields.index(keys[1])
    if keys is not None and all(isinstance(key, int) for key in keys):
        return keys if all(-len(batch) <= cast(int, key) < len(batch) for key in keys) else None
    return (0, 1) if len(batch) == 2 else None


def _described(batch: object) -> str:
    found = type(batch).__name__
    if isinstance(batch, MutableMapping):
        return f"{found} with the keys {', '.join(str(key) for key in batch)}"
    if isinstance(batch, list | tuple):
        return f"{found} of {', '.join(type(part).__name__ for part in batch)}"
    return found


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
