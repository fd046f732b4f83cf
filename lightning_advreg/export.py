"""The command ``lightning-advreg export``: the weights of a run as a file that any program reads."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_advreg.files import export_weights
from lightning_advreg.modules.loading import load_module


def checkpoint_of(path: Path) -> Path:
    """Find the checkpoint of a run: ``checkpoints/last.ckpt``, or the newest; a file is itself.

    Args:
        path: The folder of a run, or a checkpoint.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not path.is_dir():
        return path
    found = [*(path / "checkpoints").glob("*.ckpt"), *path.glob("*.ckpt")]
    newest = max(found, key=lambda each: (each.name == "last.ckpt", each.stat().st_mtime), default=None)
    if newest is None:
        raise FileNotFoundError(
            f"there is no checkpoint in {path}; `lightning-advreg fit` leaves some in checkpoints/."
        )
    return newest


def main(args: Sequence[str]) -> int:
    """Export weights from the command line.

    Args:
        args: The arguments behind ``export``.

    Returns:
        The exit status: 0, or 2 if something is wrong with the arguments or a file.
    """
    parser = argparse.ArgumentParser(
        prog="lightning-advreg export", allow_abbrev=False,
        description="Write the weights of a run as safetensors: the network of a classifier, the averaged generator of "
        "a GAN.",
        epilog="example: lightning-advreg export runs/mnist_trades --out weights.safetensors",
    )  # fmt: skip
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, or a checkpoint")
    parser.add_argument("--out", type=Path, default=Path("weights.safetensors"), help="file (weights.safetensors)")
    options = parser.parse_args(args)
    try:
        checkpoint = checkpoint_of(options.run)
        config = _config_beside(checkpoint)
        path = export_weights(load_module(checkpoint), options.out, config=config)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    sys.stdout.write(f"The weights of {checkpoint} are in {path}\n")
    return 0


def _config_beside(checkpoint: Path) -> str | None:
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        path = folder / "config.yaml"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return None
