"""What is measured: settings, rows and studies, and the files that hold them."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import lightning
import torch

from lightning_advreg import __version__

Values = dict[str, float | None]
"""Figures of one run, by the keys of columns; None where a figure has no meaning."""


class Column(NamedTuple):
    """A figure: its key in the file, what a table calls it, and its unit."""

    key: str
    title: str
    unit: str


@dataclass(frozen=True)
class Row:
    """One way to train, or to attack.

    Attributes:
        name: What the table calls it.
        build: What the setting takes, made anew for each run, since penalties and objectives may hold state.
    """

    name: str
    build: Any


class Setting(Protocol):
    """Where methods are compared.

    Attributes:
        columns: The figures.
        options: What the command needs besides the name of the study.
    """

    columns: Sequence[Column]
    options: str

    @property
    def title(self) -> str:
        """Head the section of the page."""

    @property
    def task(self) -> str:
        """Say in a line what is trained and measured."""

    def prepare(self, baseline: Row) -> None:
        """Get ready for a run that is compared with the baseline."""

    def measure(self, row: Row, seed: int) -> Values:
        """Run a row, and give its figures without the cost; its time is kept for :meth:`cost`."""

    def remark(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Give a sentence about the rows of a file, the baseline first, or nothing."""

    def cost(self, baseline: Row) -> float | None:
        """Give the time of the last run over that of the baseline, or None where there is none."""


@dataclass(frozen=True)
class Study:
    """A table: a baseline and what is compared with it.

    Attributes:
        name: The class of the method, or the family that differs by an argument; the name of the file.
        setting: Where it is measured.
        rows: The baseline first.
        note: A sentence beside the table.
    """

    name: str
    setting: Setting
    rows: tuple[Row, ...]
    note: str = ""

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names):
            raise ValueError(f"rows of {self.name} must have different names, got {names}.")


@dataclass
class Record:
    """The file of a study.

    Attributes:
        study: What it holds.
        folder: Where it is.
        found: What it says, empty before the first seed.
    """

    study: Study
    folder: Path
    found: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.found = json.loads(self.path.read_text()) if self.path.exists() else {}

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{self.study.name}.json"

    @property
    def seeds(self) -> list[int]:
        """The seeds that are there."""
        return list(self.found.get("seeds", []))

    def check(self) -> None:
        """Refuse to add a seed to a file of other rows or of another setting.

        Raises:
            ValueError: If the file holds something else.
        """
        if not self.found:
            return
        for key, (there, here) in self.differences().items():
            raise ValueError(
                f"{self.path.name} has {key} {there!r}, and this run would have {here!r}; seeds of both do not belong "
                "in one table: remove the file to measure again."
            )
        names = [row["name"] for row in self.found["rows"]]
        if names != [row.name for row in self.study.rows]:
            raise ValueError(f"{self.path.name} has the rows {names}; remove it to measure the rows of today.")

    def differences(self) -> dict[str, tuple[object, object]]:
        """Give what differs of task, columns, machine and versions: what the file says, and what this run would."""
        fresh = self._fresh()
        pairs = {key: (self.found.get(key), fresh[key]) for key in ("task", "columns", "hardware", "versions")}
        return {key: (there, here) for key, (there, here) in pairs.items() if there != here}

    def note_(self) -> None:
        """Write the note of today, if the file has another."""
        if self.found["note"] != self._note():
            self._write()

    def values(self, name: str, seed: int) -> Values | None:
        """Give the figures of a row for a seed, or None if they are not there."""
        if seed not in self.seeds:
            return None
        place = self.seeds.index(seed)
        for row in self.found["rows"]:
            if row["name"] == name:
                return {key: values[place] for key, values in row["values"].items()}
        return None

    def add(self, seed: int, figures: Mapping[str, Values]) -> None:
        """Write the file with one more seed."""
        self.found = self.found or self._fresh()
        self.found["seeds"].append(seed)
        for row in self.found["rows"]:
            for key, values in row["values"].items():
                values.append(figures[row["name"]][key])
        self._write()

    def _note(self) -> str:
        parts = (self.study.note, self.study.setting.remark(self.found["rows"]))
        return " ".join(part for part in parts if part)

    def _write(self) -> None:
        self.found["note"] = self._note()
        # as a whole, so that a kill leaves the old one
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self.found, indent=1, ensure_ascii=False) + "\n")
        draft.replace(self.path)

    def _fresh(self) -> dict[str, Any]:
        columns = self.study.setting.columns
        return {
            "method": self.study.name,
            "task": self.study.setting.task,
            "command": f"python -m benchmarks.each_method --only {self.study.name}{self.study.setting.options}",
            "seeds": [],
            "hardware": f"{platform.machine()} CPU, {torch.get_num_threads()} thread",
            "versions": {
                "torch": torch.__version__,
                "lightning": lightning.__version__,
                "lightning_advreg": __version__,
            },
            "columns": [column._asdict() for column in columns],
            "rows": [{"name": row.name, "values": {column.key: [] for column in columns}} for row in self.study.rows],
            "note": self.study.note,
        }
