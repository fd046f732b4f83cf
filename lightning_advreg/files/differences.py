"""What is wrong with weights that do not fit a module, in a sentence."""

import difflib
from collections.abc import Mapping, Sequence

from torch import Tensor

from lightning_advreg.files.refused import UnfitWeights

_SHOWN = 3


def differences(own: Mapping[str, object], given: Mapping[str, object]) -> list[str]:
    """Say in which names and shapes weights differ from those of a module.

    Args:
        own: The module's ``state_dict``.
        given: The weights.

    Returns:
        A phrase for each kind of difference; none if every weight has its place.

    Example:
        >>> import torch
        >>> given = {"weight": torch.ones(2), "biass": torch.ones(3)}
        >>> for phrase in differences(torch.nn.Linear(2, 3).state_dict(), given):
        ...     print(phrase)
        it lacks bias (nearest: biass)
        it has biass (nearest: bias), which the module has not
        weight is (2,) instead of (3, 2)
    """
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    found = []
    if missing:
        found.append(f"it lacks {_listed(missing, unexpected)}")
    if unexpected:
        found.append(f"it has {_listed(unexpected, missing)}, which the module has not")
    reshaped = [
        f"{name} is {_shape(given[name])} instead of {_shape(tensor)}"
        for name, tensor in own.items()
        if name in given and isinstance(tensor, Tensor) and _shape(given[name]) != _shape(tensor)
    ]
    if reshaped:
        found.append(", ".join(reshaped[:_SHOWN]) + _rest(reshaped))
    return found


def check_fit(name: str, own: Mapping[str, object], given: Mapping[str, object], source: str = "") -> None:
    """Check that weights fit a module, before one of them is copied.

    Args:
        name: What the module is.
        own: The module's ``state_dict``.
        given: The weights.
        source: Where they come from, for the message.

    Raises:
        UnfitWeights: If a name or a shape differs.
    """
    found = differences(own, given)
    if found:
        raise UnfitWeights(
            f"{source or 'these weights'} do{'es' if source else ''} not fit {name}: {'; '.join(found)}. Give the "
            "network that the weights were trained with."
        )


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    shown = []
    for name in names[:_SHOWN]:
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.6)
        shown.append(f"{name} (nearest: {near[0]})" if near else name)
    return ", ".join(shown) + _rest(names)


def _rest(names: Sequence[object]) -> str:
    return f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
