"""``fit --resume FOLDER``: a run that was killed goes on, one that is finished says so."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from lightning_advreg.callbacks.resume_file import checkpoint_to_continue, is_finished


def resumed(arguments: Sequence[str]) -> list[str]:
    """Replace ``--resume FOLDER`` by the configuration in a run's folder and ``--ckpt_path resume``.

    Args:
        arguments: Command-line arguments.

    Raises:
        SystemExit: If the folder is not that of a run.
    """
    spelt: list[str] = []
    for argument in arguments:
        flag, given, value = argument.partition("=")
        spelt += [flag, value] if flag == "--resume" and given else [argument]
    if "--resume" not in spelt:
        return spelt
    place = spelt.index("--resume")
    folder = Path(spelt[place + 1]) if place + 1 < len(spelt) else Path()
    if not (folder / "config.yaml").is_file():
        sys.exit(
            f"lightning-advreg: --resume {folder} is not the folder of a run, since it has no config.yaml; name one "
            "such as runs/quickstart, or give --config and --ckpt_path."
        )
    told = ["--config", str(folder / "config.yaml"), "--trainer.default_root_dir", str(folder)]
    return [*spelt[:place], *told, "--ckpt_path", "resume", *spelt[place + 2 :]]


def to_continue(trainer: Mapping[str, Any]) -> str | None:
    """Find the checkpoint that a run in a folder goes on from, and say so where there is none.

    Args:
        trainer: The arguments of the Trainer.

    Returns:
        Its path, or None where a new run is to begin.

    Raises:
        SystemExit: With status 0, if the run is finished.
    """
    root = Path(trainer.get("default_root_dir") or "runs")
    found = checkpoint_to_continue(root)
    if found is None:
        _say(f"There is nothing to continue in {root}, and a new run begins.")
        return None
    path, stored = found
    if is_finished(stored, trainer.get("max_epochs"), int(trainer.get("max_steps", -1))):
        _say(
            f"The run in {root} is finished, after epoch {stored['epoch']} and step {stored['global_step']}; give a "
            "larger --trainer.max_epochs to train on."
        )
        sys.exit(0)
    return str(path)


@rank_zero_only
def _say(sentence: str) -> None:
    sys.stdout.write(f"{sentence}\n")
