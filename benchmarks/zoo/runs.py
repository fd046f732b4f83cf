"""What a finished run says of itself: for cards, without paths of the machine it ran on."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

import yaml

from lightning_advreg.config_files import shipped_configs

_DROPPED = ("--trainer.enable_progress_bar",)


def training_facts(run: Path, weights: str) -> dict[str, Any]:
    """Give how a run was made: configuration, command, seed, epochs, time, hardware, versions.

    Args:
        run: The folder of the run.
        weights: Which weights are taken from it, ``raw`` or ``average``.

    Raises:
        ValueError: If the run has not come to its end, or its command names a path of the machine.
        FileNotFoundError: If the folder is none of a run.
    """
    starts = json.loads((run / "environment.json").read_text(encoding="utf-8"))["starts"]
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    if "ended" not in starts[-1]:
        raise ValueError(f"{run} has not come to its end; continue it: lightning-advreg fit --resume {run}")
    command = portable(starts[0]["command"])
    first, last = starts[0], starts[-1]
    seconds = sum(
        (_time(start["ended"]) - _time(start["started"])).total_seconds() for start in starts if "ended" in start
    )
    return {
        "config": command[command.index("--config") + 1],
        "command": "lightning-advreg " + " ".join(_quoted(word) for word in command),
        "seed": config["seed_everything"],
        "epochs": config["trainer"]["max_epochs"],
        "weights": weights,
        "date": last["ended"][:10],
        "minutes": round(seconds / 60, 1),
        "starts": len(starts),
        "hardware": hardware(first),
        "versions": dict(last["versions"]),
    }


def hardware(start: dict[str, Any]) -> str:
    """Say on what a run was made, from what ``environment.json`` holds of a start."""
    threads = start["threads"]
    return f"{start['devices']}, {start['processor']}, {threads} thread{'s' if threads > 1 else ''}"


def portable(command: Sequence[str]) -> list[str]:
    """Give a command without what depends on the machine.

    Args:
        command: The arguments of ``lightning-advreg``.

    Raises:
        ValueError: If a path of the machine is left.

    Example:
        >>> portable(["fit", "--config", "/home/me/configs/mnist_pgd.yaml", "--trainer.enable_progress_bar", "false"])
        ['fit', '--config', 'mnist_pgd']
    """
    kept: list[str] = []
    words = iter(command)
    for word in words:
        if word in _DROPPED:
            next(words, None)
            continue
        if kept and kept[-1] == "--config" and PurePath(word).stem in shipped_configs():
            word = PurePath(word).stem
        elif kept and kept[-1].endswith(".data_dir"):
            word = "data"
        elif kept and kept[-1].endswith(".default_root_dir"):
            word = "/".join(PurePath(word).parts[-2:])
        if word.startswith("/") or "=/" in word:
            raise ValueError(f"the command of the run names {word}, a path of the machine; repeat it with another.")
        kept.append(word)
    return kept


def _quoted(word: str) -> str:
    return f"'{word}'" if any(sign in word for sign in " []{}*") else word


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
