"""The folder of a run: what each file says, and what is left to do."""

import csv
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lightning_advreg.ablation.configuration import differences, fingerprint
from lightning_advreg.files import write_text

CONFIG, LOG, FIT, RESULT, ERROR, STARTS = "run.yaml", "log.txt", "fit.json", "result.json", "error.json", "starts"
"""The files of a run, besides those that ``fit`` and ``test`` leave themselves."""


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what :func:`lightning_advreg.files.write_json` wrote; None where there is no such file."""
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def changes(folder: Path, config: Mapping[str, Any]) -> list[str]:
    """List what was different when a run's folder was made.

    Args:
        folder: The run's folder, or where it is going to be.
        config: Every value of the run now.

    Returns:
        One ``path: old -> new`` each; nothing for a new folder.
    """
    path = folder / CONFIG
    if not path.is_file():
        return []
    old = yaml.safe_load(path.read_text())
    if fingerprint(old) == fingerprint(json.loads(json.dumps(config, default=str))):
        return []
    return differences(old, config) or ["the configuration"]


def finished(folder: Path) -> dict[str, Any] | None:
    """Read the results of a run; None where it has not ended."""
    return read_json(folder / RESULT)


def prepare(folder: Path, config: Mapping[str, Any]) -> None:
    """Make a run's folder, with its configuration and without the error of the last time.

    Args:
        folder: The folder.
        config: Every value of the run.
    """
    text = yaml.safe_dump(json.loads(json.dumps(config, default=str)), sort_keys=False)
    write_text(folder / CONFIG, text)
    (folder / ERROR).unlink(missing_ok=True)


def set_aside(folder: Path) -> None:
    """Rename a run's folder, to make room for another configuration.

    Args:
        folder: The folder.
    """
    number = 1
    while (aside := folder.with_name(f"{folder.name}_before_{number}")).exists():
        number += 1
    folder.rename(aside)


def failure(folder: Path, exit_code: int) -> str:
    """Say in one line why a run's process has ended without a result.

    Args:
        folder: The run's folder.
        exit_code: That of its process; minus the signal where it was killed.

    Returns:
        The last line of its error.
    """
    error = read_json(folder / ERROR)
    if error is not None:
        return str(error["error"])
    last = next((line.strip() for line in reversed(_tail(folder / LOG)) if line.strip()), "the log is empty")
    how = f"killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit status {exit_code}"
    return f"{how}; last line of its log: {last}"


def checkpoint_to_resume(folder: Path) -> Path | None:
    """Find the checkpoint that an unfinished run continues from: ``last.ckpt``, or the newest; None without any."""
    found = (folder / "checkpoints").glob("*.ckpt")
    return max(found, key=lambda path: (path.name == "last.ckpt", path.stat().st_mtime), default=None)


def logged(folder: Path) -> list[dict[str, float]]:
    """Read what a run logged at the ends of its epochs, over all its starts.

    Args:
        folder: The run's folder.

    Returns:
        For each epoch, in order, the metrics and ``epoch``. Where an epoch was run twice, the later one counts.
    """
    earlier = sorted(folder.glob("metrics_*.csv"), key=lambda path: int((re.findall(r"\d+", path.name) or ["0"])[-1]))
    epochs: dict[int, dict[str, float]] = {}
    for path in [*earlier, folder / "metrics.csv"]:
        if not path.is_file():
            continue
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                values = {name: _number(value) for name, value in row.items() if name and value}
                if "epoch" not in values or math.isnan(values["epoch"]):
                    continue
                epochs.setdefault(int(values["epoch"]), {}).update(values)
    return [epochs[epoch] for epoch in sorted(epochs)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _tail(path: Path, size: int = 4096) -> list[str]:
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace").splitlines()
