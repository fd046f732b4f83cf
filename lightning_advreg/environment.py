"""Where and with what a run was made: ``environment.json`` in its folder."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lightning_advreg import __version__
from lightning_advreg.files import write_json
from lightning_advreg.files.outlasting import outlasting

FILE = "environment.json"
"""The name of the file."""

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "timm")


def record_start(
    folder: Path,
    *,
    command: Sequence[str],
    device: torch.device,
    processes: int,
    seed: int | None = None,
    checkpoint: str | None = None,
) -> None:
    """Note that a run starts, in its ``environment.json``.

    The file holds ``starts``, one for each time the run was started: time, command line, checkpoint, seed, devices,
    processor, threads and versions. A start without a checkpoint is that of a new run, and forgets the earlier ones.

    Args:
        folder: The run's folder; it is made.
        command: The arguments of ``lightning-advreg``.
        device: The device of the main process.
        processes: How many processes, each with a device of its own, take part.
        seed: The seed of the run; None where there is none.
        checkpoint: What the run continues from; None for a new run.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> record_start(folder, command=["fit", "--config", "quickstart"], device=torch.device("cpu"), processes=1)
        >>> record_end(folder)
        >>> sorted(json.loads((folder / FILE).read_text())["starts"][0])[:4]
        ['checkpoint', 'command', 'devices', 'ended']
    """
    starts = _starts(folder / FILE) if checkpoint else []
    starts.append(
        {
            "started": _now(),
            "command": list(command),
            "checkpoint": checkpoint,
            "seed": seed,
            "devices": f"{processes} x {_name(device)}",
            "processor": _processor(),
            "processors": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": platform.platform(),
            "versions": _versions(),
        }
    )
    _write(folder / FILE, starts)


def record_end(folder: Path) -> None:
    """Note that the run has come to its end; one that is killed or fails has none.

    Args:
        folder: The run's folder.
    """
    starts = _starts(folder / FILE)
    if starts:
        starts[-1]["ended"] = _now()
        _write(folder / FILE, starts)


def _starts(path: Path) -> list[dict[str, Any]]:
    try:
        starts = json.loads(path.read_text())["starts"]
    except (OSError, ValueError, KeyError, TypeError):
        starts = None
    # a record that is broken or missing is no reason not to train
    valid = isinstance(starts, list) and all(isinstance(start, dict) for start in starts)
    return starts if valid else []


def _write(path: Path, starts: list[dict[str, Any]]) -> None:
    with outlasting(path):
        write_json(path, {"starts": starts})


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "lightning_advreg": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
