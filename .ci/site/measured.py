"""Tables of docs/results: what a method was measured to do, and methods side by side."""

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from navigation import GROUPS

MARKER = "<!-- measured -->"
COMPARED = "<!-- side by side -->"
_FRONT = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)
_MNIST = (("clean", "clean, %"), ("pgd40", "PGD-40, %"), ("autoattack_fast", "AutoAttack fast, %"))


def read(path: Path) -> dict[str, Any]:
    """Read a file of figures.

    Raises:
        ValueError: If a row lacks a column, or has another number of values than there are seeds.
    """
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    keys = [column["key"] for column in found["columns"]]
    for row in found["rows"]:
        for key in keys:
            if key not in row["values"]:
                raise ValueError(f"{path.name}: row {row['name']!r} has no {key!r}; the columns are {', '.join(keys)}.")
            given = row["values"][key]
            if isinstance(given, list) and len(given) != len(found["seeds"]):
                raise ValueError(
                    f"{path.name}: row {row['name']!r} has {len(given)} values of {key!r} for {len(found['seeds'])} "
                    "seeds; give one for each."
                )
    return found


def table(found: Mapping[str, Any]) -> str:
    """Give one file as a table with what it stands on."""
    lines = [found["task"].rstrip(".") + ".", "", *_head("", found["columns"])]
    lines += [_row(row["name"], row, found["columns"]) for row in found["rows"]]
    seeds = found["seeds"]
    spread = f"Mean ± standard deviation over {len(seeds)} seeds. " if len(seeds) > 1 else "One seed. "
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines += ["", f"{spread}`{found['command']}`, {found['hardware']}, {versions}.", ""]
    if found.get("note"):
        lines += [found["note"], ""]
    return "\n".join(lines)


def side_by_side(docs: Path) -> str:
    """Give all figures of methods, by the group of the pages that show them, and those of MNIST."""
    pages = _pages(docs)
    found = {path.stem: read(path) for path in sorted((docs / "results" / "methods").glob("*.json"))}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in found:
        groups[pages[name].rpartition("/")[0] if name in pages else ""].append(name)
    lines: list[str] = []
    for group in [*GROUPS, ""]:
        if groups.get(group):
            lines += [f"## {GROUPS.get(group, 'Others')}", ""]
            lines += _group([(name, found[name]) for name in groups[group]], pages)
    return "\n".join([*lines, *_mnist(docs / "results" / "mnist")])


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Part a page from its front matter."""
    import yaml

    begin = _FRONT.match(text)
    return (yaml.safe_load(begin[1]) or {}, text[begin.end() :]) if begin else ({}, text)


def _pages(docs: Path) -> dict[str, str]:
    """The page of each file: the first of those that show it, which one with the same name is before others."""
    shown: dict[str, str] = {}
    for path in sorted((docs / "methods").rglob("*.md")):
        front, _ = front_matter(path.read_text(encoding="utf-8"))
        for name in front.get("measured") or []:
            if name not in shown or front.get("method") == name:
                shown[name] = path.relative_to(docs).as_posix()
    return shown


def _group(files: list[tuple[str, dict[str, Any]]], pages: Mapping[str, str]) -> list[str]:
    alike: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for name, found in files:
        alike[json.dumps([found["task"], found["columns"]])].append((name, found))
    lines = []
    for together in alike.values():
        columns = together[0][1]["columns"]
        lines += [together[0][1]["task"].rstrip(".") + ".", "", *_head("", columns)]
        baselines = set()
        for name, found in together:
            page = pages.get(name, "").removeprefix("methods/")
            for position, row in enumerate(found["rows"]):
                text = _row(row["name"] if position == 0 or not page else f"[{row['name']}]({page})", row, columns)
                # one baseline for all, unless they differ in more than the time they took
                key = json.dumps(
                    [row["name"], {k: v for k, v in row["values"].items() if k not in ("cost", "seconds")}]
                )
                if position > 0 or key not in baselines:
                    lines.append(text)
                baselines.add(key)
        lines.append("")
    return lines


def _mnist(folder: Path) -> list[str]:
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        one = json.loads(path.read_text(encoding="utf-8"))
        runs[one["method"]].append(one)
    if not runs:
        return []
    columns = [{"title": title} for _, title in _MNIST]
    lines = ["## On MNIST", "", "Linf 0.3, 3 epochs; settings and images in [results/mnist](../results/mnist.md).", ""]
    lines += _head("method", columns)
    for method, ones in runs.items():
        cells = [_cell([100 * one[key] for one in ones], "%") for key, _ in _MNIST]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return [*lines, ""]


def _head(first: str, columns: list[dict[str, Any]]) -> list[str]:
    titles = [f"{one['title']}, {one['unit']}" if one.get("unit") else one["title"] for one in columns]
    return [f"| {first} | {' | '.join(titles)} |", "|---|" + "--:|" * len(titles)]


def _row(name: str, row: Mapping[str, Any], columns: list[dict[str, Any]]) -> str:
    return f"| {name} | {' | '.join(_cell(row['values'][one['key']], one.get('unit', '')) for one in columns)} |"


def _cell(given: object, unit: str) -> str:
    values = [one for one in (given if isinstance(given, list) else [given]) if one is not None]
    if not values:
        return "-"
    if any(isinstance(one, str) for one in values):
        return ", ".join(map(str, dict.fromkeys(values)))
    mean = statistics.fmean(values)
    digits = {"%": 1, "x": 2}.get(unit, _digits(mean))
    shown = f"{mean:.{digits}f}"
    return f"{shown} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else shown


def _digits(value: float) -> int:
    """Decimals that leave three significant digits."""
    return 0 if value == 0 else max(0, min(6, 2 - math.floor(math.log10(abs(value)))))
