"""Configurations side by side: the values in which runs differ."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# they decide where results lie and how they are shown, not what they are
_WITHOUT_EFFECT = {
    "trainer.default_root_dir", "trainer.logger", "trainer.enable_progress_bar", "trainer.enable_model_summary",
    "ckpt_path", "weights_only",
}  # fmt: skip

ABSENT = object()
"""What a run has in place of a value that its configuration does not know."""


def differences(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """List the values in which configurations differ.

    Paths leave out ``init_args``. Where runs have different classes, their names stand in a row, with the arguments
    that one of these classes alone knows, and the arguments that several know in rows of their own.

    Args:
        configs: The configurations, with ``class_path`` and ``init_args`` for objects.

    Returns:
        For each path, what each configuration has there, as text; empty where it has nothing.

    Example:
        >>> differences([{"trainer": {"max_epochs": 5}, "seed": 0}, {"trainer": {"max_epochs": 9}, "seed": 0}])
        {'trainer.max_epochs': ['5', '9']}
    """
    found = list(_differences("", list(configs)))
    # what decides most comes first
    return dict(sorted(found, key=lambda row: _rank(row[0])))


def value_text(value: object) -> str:
    """Write a value of a configuration in short: objects by class and arguments, without those that are null.

    Args:
        value: A plain value.

    Returns:
        One line.

    Example:
        >>> value_text({"class_path": "lightning_advreg.attacks.PGD", "init_args": {"eps": 0.1, "seed": None}})
        'PGD(eps=0.1)'
        >>> value_text([None, True, "linf"])
        '[null, true, linf]'
    """
    if isinstance(value, Mapping):
        inner = value.get("init_args") or {} if "class_path" in value else value
        listed = ", ".join(f"{key}={value_text(given)}" for key, given in inner.items() if given is not None)
        return f"{_class_name(value)}({listed})" if "class_path" in value else f"{{{listed}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, value))}]"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _rank(path: str) -> int:
    sections = ("model", "data", "", "trainer")
    top = path.partition(".")[0]
    return sections.index(top if top in sections else "")


def _differences(path: str, values: list[Any]) -> Iterator[tuple[str, list[str]]]:
    known = [value for value in values if value is not ABSENT]
    if path in _WITHOUT_EFFECT or (all(value == known[0] for value in known) and len(known) == len(values)):
        return
    filled = [value for value in known if value is not None]
    if filled and all(isinstance(value, Mapping) for value in filled) and len(filled) > 1:
        yield from _of_mappings(path, values)
    elif filled and len(filled) == len(values) and (by_class := _by_class(values)):
        for name in dict.fromkeys(name for objects in by_class for name in objects):
            yield from _differences(f"{path}.{name}", [objects.get(name, ABSENT) for objects in by_class])
    else:
        yield path, [_text(value) for value in values]


def _of_mappings(path: str, values: list[Any]) -> Iterator[tuple[str, list[str]]]:
    names = [_class_name(value) for value in values]
    inner = [_arguments(value) for value in values]
    present = [place for place, value in enumerate(values) if isinstance(value, Mapping)]
    everywhere, one_class = len(present) == len(values), len({names[place] for place in present}) == 1
    shared, own = [], []
    for key in dict.fromkeys(key for arguments in inner for key in arguments):
        given = [inner[place].get(key, ABSENT) for place in present]
        if len({names[place] for place in present if key in inner[place]}) < 2 and not one_class:
            # an argument that other classes do not know
            own.append(key)
        elif any(value != given[0] for value in given):
            shared.append(key)
        elif not everywhere:
            # equal wherever it is, so it is said where the whole is
            own.append(key)
    if path and (own or not one_class or (not everywhere and names[present[0]])):
        cells = []
        for name, value, arguments in zip(names, values, inner, strict=True):
            said = {key: arguments[key] for key in own if key in arguments}
            whole: Any = {"class_path": name, "init_args": said} if name else said
            cells.append(_text((whole if said else name) if isinstance(value, Mapping) else value))
        yield path, cells
    for key in shared:
        yield from _differences(
            f"{path}.{key}" if path else str(key), [arguments.get(key, ABSENT) for arguments in inner]
        )


def _arguments(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        return {}
    return (value.get("init_args") or {}) if "class_path" in value else value


def _class_name(value: object) -> str:
    return str(value["class_path"]).rpartition(".")[2] if isinstance(value, Mapping) and "class_path" in value else ""


def _by_class(values: list[Any]) -> list[dict[str, Any]]:
    """Give lists of objects by their classes; nothing if there are other values, or two of a class in a list."""
    sorted_out = []
    for value in values:
        objects = {_class_name(each): each for each in value} if isinstance(value, list) else {"": value}
        if "" in objects or len(objects) < len(value):
            return []
        sorted_out.append(objects)
    return sorted_out


def _text(value: object) -> str:
    if value is ABSENT:
        return ""
    if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        return "\n".join(map(value_text, value))
    if isinstance(value, Mapping) and "class_path" not in value:
        return "\n".join(f"{key}={value_text(given)}" for key, given in value.items() if given is not None)
    return value_text(value)
