"""Short paths into a configuration: ``network.norm`` for ``model.init_args.network.init_args.norm``."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

_MOST_CANDIDATES = 8


def find_path(path: str, config: Mapping[str, Any]) -> str:
    """Find the one place in a configuration that a path, full or short, means.

    A short path is the end of a full one, without its ``init_args``. Where a list of objects stands on the way, its
    last element is meant, as on the command line.

    Args:
        path: Such as ``dropout``, ``network.norm`` or ``model.init_args.network.init_args.norm``.
        config: Every value of a run, defaults included.

    Returns:
        The full path.

    Raises:
        ValueError: If there is no such place, or there are several; the message lists the candidates.

    Example:
        >>> config = {"model": {"class_path": "M", "init_args": {"network": {"init_args": {"dropout": 0.0}}}}}
        >>> find_path("dropout", config)
        'model.init_args.network.init_args.dropout'
    """
    full = dict(_walk(config, ""))
    if path in full:
        return path
    wanted = short_path(path)
    shortened = {place: short_path(place) for place in full}
    exact = [place for place, short in shortened.items() if short == wanted]
    ends = exact or [place for place, short in shortened.items() if short.endswith(f".{wanted}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        listed = ", ".join(shortened[place] for place in ends[:_MOST_CANDIDATES])
        raise ValueError(f"the path {path!r} may mean any of {listed}; write enough of it to tell them apart.")
    parent, _, _ = wanted.rpartition(".")
    for place, short in shortened.items():
        if parent and full[place] is None and (short == parent or short.endswith(f".{parent}")):
            raise ValueError(
                f"there is no {path!r} in the configuration, since {short} is null, or a default that is not "
                f"named there; set {short} to a class first, such as {{class_path: NAME, init_args: {{...}}}}."
            )
    raise ValueError(f"there is no {path!r} in the configuration; nearest are {_nearest(wanted, shortened.values())}.")


def short_path(path: str) -> str:
    """Leave ``init_args`` out of a path.

    Args:
        path: A full path.

    Returns:
        The path that people write.

    Example:
        >>> short_path("model.init_args.network.init_args.norm")
        'model.network.norm'
    """
    return ".".join(part for part in path.split(".") if part != "init_args")


def _walk(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if key == "class_path":
            continue
        place = f"{prefix}{key}"
        if key != "init_args":
            yield place, value
        inner = value[-1] if isinstance(value, list) and value else value
        if isinstance(inner, Mapping):
            yield from _walk(inner, f"{place}.")


def _nearest(wanted: str, places: Any) -> str:  # noqa: ANN401
    by_end: dict[str, str] = {}
    for place in places:
        by_end.setdefault(place.rpartition(".")[2], place)
        by_end.setdefault(place, place)
    near = difflib.get_close_matches(wanted, by_end, n=4, cutoff=0.5)
    near += difflib.get_close_matches(wanted.rpartition(".")[2], by_end, n=4, cutoff=0.5)
    # a place called as asked for, under another parent, comes first
    near.sort(key=lambda name: by_end[name].rpartition(".")[2] != wanted.rpartition(".")[2])
    found = list(dict.fromkeys(by_end[name] for name in near))
    return ", ".join(found[:_MOST_CANDIDATES]) or "none; `lightning-advreg fit --print_config` shows all"
