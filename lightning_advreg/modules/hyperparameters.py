"""Hyper-parameters as plain values, so that checkpoints are safe to load and complete enough to rebuild a module."""

import dataclasses
import functools
import numbers
import sys
from collections.abc import Mapping
from typing import Any

from lightning_advreg.recorded import Recorded


class Undescribable(Exception):
    """An object that plain values cannot describe, such as a network of the user's own."""


def describe(value: object) -> Any:  # noqa: ANN401
    """Describe a constructor argument by plain values, in the form of a config file.

    Numbers, text and None stay as they are. Frozen dataclasses, networks of this library, classes, and
    ``functools.partial`` of classes become ``{"class_path": ..., "init_args": ...}``. Collections are described item by
    item.

    Args:
        value: The argument.

    Returns:
        Numbers, text, None, lists and dicts of these.

    Raises:
        Undescribable: If the argument, or a part of it, is anything else.

    Example:
        >>> from lightning_advreg.constraints import Budget
        >>> describe([Budget(layers=3)])
        [{'class_path': 'lightning_advreg.constraints.Budget', 'init_args': {'parameters': None, 'layers': 3}}]
    """
    if value is None or isinstance(value, bool):
        return value
    # NumPy's numbers among them, which torch.load(weights_only=True) would refuse
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, Mapping):
        return {key: describe(item) for key, item in value.items()}
    if isinstance(value, type):
        return {"class_path": _importable(value)}
    if isinstance(value, functools.partial):
        return _describe_partial(value)
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return {"class_path": _importable(type(value)), "init_args": describe(fields)}
    if isinstance(value, Recorded):
        return {"class_path": _importable(type(value)), "init_args": describe(value.init_args)}
    raise Undescribable(f"{type(value).__name__} cannot be described by plain values")


def describe_all(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Describe the arguments that can be described, and leave out the others."""
    described = {}
    for name, value in arguments.items():
        try:
            described[name] = describe(value)
        except Undescribable:
            continue
    return described


def class_path(cls: type) -> str:
    """Give the shortest import path of a class, among the packages that contain it and are imported.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> class_path(PGD)
        'lightning_advreg.attacks.PGD'
    """
    parts = cls.__module__.split(".")
    for end in range(1, len(parts)):
        package = sys.modules.get(".".join(parts[:end]))
        # vars, not getattr: a lazy package would import its submodules to answer
        if package is not None and vars(package).get(cls.__qualname__) is cls:
            return f"{package.__name__}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _describe_partial(value: "functools.partial[Any]") -> dict[str, Any]:
    cls = value.func
    if getattr(cls, "__module__", "").startswith("jsonargparse"):
        # the command line wraps the class: partial(call, instantiate, cls, **init_args)
        cls = value.args[-1]
    elif value.args:
        raise Undescribable("a partial with positional arguments cannot be described by plain values")
    if not isinstance(cls, type):
        raise Undescribable("a partial of a function cannot be described by plain values")
    return {"class_path": _importable(cls), "init_args": describe(value.keywords)}


def _importable(cls: type) -> str:
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise Undescribable(f"{cls.__name__} is defined where another program cannot import it")
    return class_path(cls)
