"""Files of a run as plain values; one that is broken is noted rather than raised."""

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Points = list[tuple[float, float]]
"""A curve: epochs trained and values."""


class _Loader(yaml.SafeLoader):
    """Plain values alone: what a Python class would be needed for is named."""


def _unknown(loader: yaml.Loader, suffix: str, node: yaml.Node) -> str:
    return suffix.rpartition(":")[2]


_Loader.add_multi_constructor("!", _unknown)
_Loader.add_multi_constructor("tag:yaml.org,2002:python/", _unknown)


def read_json(path: Path, notes: list[str]) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        notes: Where it is said that the file is broken.

    Returns:
        The object; empty where there is none.
    """
    return _read(path, notes, json.loads)


def read_yaml(path: Path, notes: list[str]) -> dict[str, Any]:
    """Read a YAML mapping; objects of Python classes become their names.

    Args:
        path: The file.
        notes: Where it is said that the file is broken.

    Returns:
        The mapping; empty where there is none.
    """
    return _read(path, notes, lambda text: yaml.load(text, _Loader))


def _read(path: Path, notes: list[str], parse: Callable[[str], Any]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        notes.append(f"{path.name} cannot be read: {reason}")
        return {}
    if not isinstance(content, dict):
        notes.append(f"{path.name} holds no mapping, and is left out")
        return {}
    return content


def metrics_files(folder: Path, starts: int) -> list[Path]:
    """List the metrics of a run, over all its starts, in the order of time.

    Args:
        folder: The run's folder.
        starts: How often it was started; metrics of earlier starts lie in ``metrics_<n>.csv``, and those of another
            run may lie before them.

    Returns:
        The files.
    """
    earlier = sorted(folder.glob("metrics_*.csv"), key=lambda path: int((re.findall(r"\d+$", path.stem) or ["0"])[-1]))
    kept = earlier[-(starts - 1) :] if starts > 1 else []
    return [path for path in [*kept, folder / "metrics.csv"] if path.is_file()]


def read_curves(paths: list[Path], notes: list[str]) -> dict[str, Points]:
    """Read what was logged, by metric, against the number of epochs trained.

    What is logged ``n`` times in an epoch stands at its n-th parts. Where an epoch was run twice, the later one counts.

    Args:
        paths: Metrics files in the order of time.
        notes: Where it is said that a file is broken.

    Returns:
        For each metric its points, in ascending order of epochs. Values may be infinite or NaN.
    """
    logged: dict[int, dict[str, dict[int, float]]] = {}
    for path in paths:
        first = True
        try:
            for epoch, step, values in _rows(path):
                # a run that goes on may begin before the end of what was logged
                for later in [known for known in logged if first and known >= epoch]:
                    del logged[later]
                first = False
                for name, value in values.items():
                    logged.setdefault(epoch, {}).setdefault(name, {})[step] = value
        except (OSError, ValueError, csv.Error) as error:
            notes.append(f"{path.name} cannot be read to its end: {error}")
    curves: dict[str, Points] = {}
    end = -1
    for epoch in sorted(logged):
        begin, end = end, max(step for steps in logged[epoch].values() for step in steps)
        for name, steps in logged[epoch].items():
            for step, value in sorted(steps.items()):
                curves.setdefault(name, []).append((epoch + (step - begin) / max(1, end - begin), value))
    return curves


def _rows(path: Path) -> Iterator[tuple[int, int, Mapping[str, float]]]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cells = {name: value for name, value in row.items() if isinstance(name, str) and value}
            epoch, step = _number(cells.pop("epoch", "")), _number(cells.pop("step", ""))
            if math.isfinite(epoch) and math.isfinite(step):
                values = {name: _number(value) for name, value in cells.items() if isinstance(value, str)}
                yield int(epoch), int(step), values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
