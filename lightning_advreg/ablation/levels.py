"""Values of an axis: read from text, shown as text."""

import json
import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but ``1e-3`` is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)

_LONGEST = 40


def read_yaml(text: str) -> Any:  # noqa: ANN401
    """Read YAML, with ``1e-3`` as a number.

    Args:
        text: The text.

    Returns:
        Plain values.

    Raises:
        yaml.YAMLError: If it is no YAML.

    Example:
        >>> read_yaml("{lr: 1e-3, eps: 8/255}")
        {'lr': 0.001, 'eps': '8/255'}
    """
    return yaml.load(text, _Loader)


def read_levels(text: str) -> list[Any]:
    """Read the values of an axis: a YAML list, or values with commas between them.

    Args:
        text: Such as ``[batch, group]``, ``batch,group`` or ``0,1e-3``.

    Returns:
        The values.

    Raises:
        ValueError: If the text is no YAML, or there is no value.

    Example:
        >>> read_levels("batch,group"), read_levels("[0, 1e-3]"), read_levels("{class_path: SAM},null")
        (['batch', 'group'], [0, 0.001], [{'class_path': 'SAM'}, None])
    """
    for attempt in (text, f"[{text}]"):
        try:
            values = read_yaml(attempt)
        except yaml.YAMLError:
            continue
        if isinstance(values, list) and values:
            return values
    raise ValueError(f"values of an axis must be a YAML list such as [batch, group] or batch,group, got {text!r}.")


def level_name(value: object) -> str:
    """Name a value for a table: a class by its name and arguments, anything else as written.

    Args:
        value: A plain value.

    Returns:
        A short text.

    Example:
        >>> level_name(None), level_name(0.3), level_name({"class_path": "x.PGD", "init_args": {"steps": 7}})
        ('null', '0.3', 'PGD(steps=7)')
    """
    if isinstance(value, dict) and "class_path" in value:
        arguments = (f"{key}={level_name(given)}" for key, given in (value.get("init_args") or {}).items())
        name = str(value["class_path"]).rpartition(".")[2]
        listed = ",".join(arguments)
        return f"{name}({listed})" if listed else name
    if isinstance(value, list | tuple):
        return "+".join(map(level_name, value)) or "nothing"
    return "null" if value is None else as_flag(value)


def as_flag(value: object) -> str:
    """Write a value as the command line reads it.

    Args:
        value: A plain value.

    Returns:
        Text as it is, anything else as JSON, which YAML contains.

    Example:
        >>> as_flag("8/255"), as_flag(True), as_flag([1, None])
        ('8/255', 'true', '[1, null]')
    """
    return value if isinstance(value, str) else json.dumps(value)


def folder_name(name: str, taken: set[str]) -> str:
    """Make a folder's name out of a cell's, unlike all others.

    Args:
        name: The cell's name.
        taken: Names given so far, in lower case; the new one joins them.

    Returns:
        At most 80 characters that every file system takes.

    Example:
        >>> folder_name("eps=8/255", set())
        'eps=8_255'
    """
    plain = re.sub(r"[^\w.=,+()-]", "_", name).strip(".")[: 2 * _LONGEST - 4] or "cell"
    unique, number = plain, 1
    # some file systems do not tell upper and lower case apart
    while unique.lower() in taken:
        number += 1
        unique = f"{plain}_{number}"
    taken.add(unique.lower())
    return unique
