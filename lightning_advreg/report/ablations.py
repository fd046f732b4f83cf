"""What an ablation has left in its folder."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_TABLE, _RESULTS = "table.md", "results.csv"
_CELL = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, kw_only=True)
class AblationRecord:
    """An ablation as its folder tells it.

    Args:
        folder: Its folder.
        name: What the report calls it.
        tables: The tables of ``table.md``, each with its head as first row.
        text: The sentences of ``table.md``.
        runs: ``results.csv``, with its head as first row.
        plots: Its pictures.
        notes: What could not be read.
    """

    folder: Path
    name: str
    tables: Sequence[Sequence[Sequence[str]]]
    text: Sequence[str]
    runs: Sequence[Sequence[str]]
    plots: Sequence[Path]
    notes: Sequence[str]


def is_ablation(folder: Path) -> bool:
    """Tell whether a folder is that of an ablation: it has ``results.csv``."""
    return (folder / _RESULTS).is_file()


def read_ablation(folder: Path, name: str = "") -> AblationRecord:
    r"""Read the folder of an ablation.

    Args:
        folder: The folder.
        name: What the report calls it; the folder's name if empty.

    Returns:
        What it says. Files that are broken or missing are named in ``notes``.

    Raises:
        ValueError: If the folder is not that of an ablation.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> _ = (folder / "results.csv").write_text("cell,seed,test/acc\nnone,0,0.9\n")
        >>> _ = (folder / "table.md").write_text("| cell | acc |\n| :-- | --: |\n| none | 90 % |\n\nOne seed.\n")
        >>> record = read_ablation(folder)
        >>> record.tables, record.text
        ([[['cell', 'acc'], ['none', '90 %']]], ['One seed.'])
    """
    if not is_ablation(folder):
        raise ValueError(f"{folder} is no ablation: it has no {_RESULTS}; give what `ablate --out` was given.")
    notes: list[str] = []
    tables, text = _markdown(_read(folder / _TABLE, notes))
    try:
        runs = _even([row for row in csv.reader(_read(folder / _RESULTS, notes).splitlines()) if row])
    except csv.Error as error:
        runs = []
        notes.append(f"{_RESULTS} cannot be read: {error}")
    return AblationRecord(
        folder=folder,
        name=name or folder.resolve().name,
        tables=tables,
        text=text,
        runs=runs,
        plots=sorted((folder / "plots").glob("*.png")),
        notes=notes,
    )


def _read(path: Path, notes: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        notes.append(f"{path.name} cannot be read: {error}")
        return ""


def _markdown(text: str) -> tuple[list[list[list[str]]], list[str]]:
    """Take tables and paragraphs out of Markdown; headings and pictures are left to the report."""
    tables: list[list[list[str]]] = []
    paragraphs: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in block.strip().splitlines()]
        rows = [_cells(line) for line in lines if line.startswith("|")]
        rows = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
        if rows:
            tables.append(_even(rows))
        others = [line for line in lines if not line.startswith(("|", "#", "!["))]
        if others:
            paragraphs.append(" ".join(others))
    return tables, paragraphs


def _even(rows: list[list[str]]) -> list[list[str]]:
    """Give every row as many cells as the widest has."""
    width = max(map(len, rows), default=0)
    return [[*row, *[""] * (width - len(row))] for row in rows]


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELL.split(line)[1:-1]]
