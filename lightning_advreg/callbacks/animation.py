"""The pictures of a run, one after another, as an animated GIF."""

import re
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from lightning_advreg.files import writing

_MOST_FRAMES = 100
_LAST_STAYS = 5


def log_animation(trainer: pl.Trainer, name: str, *, steps: Sequence[int], frame_seconds: float) -> Path | None:
    """Join pictures that :func:`~lightning_advreg.callbacks.log_image` wrote into ``<run folder>/images/<name>.gif``.

    A picture that is not on the disk is passed over, so an interrupted run keeps its frames, and one that goes on in
    the same folder shows them all. Of more than 100 pictures so many are shown, evenly spread; the last one stays five
    times as long. W&B loggers are sent the GIF too. The main process alone writes, but all must call this.

    Args:
        trainer: The Trainer of the run.
        name: The name that the pictures were logged under.
        steps: The steps that they were logged at, in order.
        frame_seconds: How long to show each, in seconds.

    Returns:
        The file; None where there are fewer than two pictures, on other processes, and with ``fast_dev_run``.
    """
    # log_dir asks the main process, so every process must read it
    folder = trainer.log_dir or trainer.default_root_dir
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    file_name = re.sub(r"[^\w.-]", "_", name)
    written = [Path(folder, "images", f"{file_name}_{step:06d}.png") for step in steps]
    frames = evenly([path for path in written if path.is_file()], _MOST_FRAMES)
    if len(frames) < 2:
        return None
    path = Path(folder, "images", f"{file_name}.gif")
    write_gif(frames, path, frame_seconds)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            logger.experiment.log({f"{name}_over_time": wandb.Video(str(path), format="gif")})
    return path


def write_gif(frames: Sequence[Path], path: Path, frame_seconds: float) -> None:
    """Write pictures of one size as an animated GIF that runs for ever.

    Args:
        frames: Their files, at least one.
        path: The file to write.
        frame_seconds: How long each is shown, to a hundredth of a second; the last one five times as long.
    """
    first, *others = (_indexed(frame) for frame in frames)
    length = max(10, round(frame_seconds * 100) * 10)
    durations = [length] * len(others) + [length * _LAST_STAYS]
    with writing(path) as draft:
        first.save(draft, save_all=True, append_images=others, duration=durations, loop=0)


def evenly(paths: Sequence[Path], most: int) -> list[Path]:
    """Choose at most so many, evenly spread, the first and the last among them.

    Example:
        >>> [path.name for path in evenly([Path(str(i)) for i in range(10)], most=4)]
        ['0', '3', '6', '9']
    """
    if len(paths) <= most:
        return list(paths)
    return [paths[round(place * (len(paths) - 1) / (most - 1))] for place in range(most)]


def _indexed(path: Path) -> Image.Image:
    with Image.open(path) as image:
        colours = image.convert("RGB")
    red, green, blue = colours.split()
    # 256 shades hold a grey picture as it is
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else colours.quantize(256)
