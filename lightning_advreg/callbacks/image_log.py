"""One way to show a picture: to every logger that takes pictures, and as a file."""

import re
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from lightning_advreg.files.outlasting import outlasting
from lightning_advreg.reporting.images import Picture, save_image, to_array


def log_image(trainer: pl.Trainer, name: str, image: Picture, *, step: int, caption: str = "") -> None:
    """Send a picture to the loggers of a Trainer, and write it to ``<run folder>/images/<name>_<step>.png``.

    W&B and TensorBoard loggers take pictures; others are passed over. The run folder is ``trainer.log_dir``, or
    ``default_root_dir`` where there is none. The main process alone writes, but all processes must call this, since
    they agree on the folder. With ``fast_dev_run``, which leaves no files, nothing happens.

    Args:
        trainer: The Trainer of the run.
        name: What the loggers call it, such as ``val/adversarial_examples``. Characters other than letters, digits,
            ``_``, ``.`` and ``-`` become ``_`` in the file's name.
        image: An image of shape ``(1, H, W)`` or ``(3, H, W)``, floating point in [0, 1], or a matplotlib figure.
        step: Where the picture stands in the run, 0 or more. ``trainer.global_step`` counts the steps of every
            optimizer, so a GAN gives its own count.
        caption: A line below the picture, where the logger shows one (W&B).

    Raises:
        TypeError: If an image is not floating point.
        ValueError: If an image has another shape, or values outside [0, 1].

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     trainer = pl.Trainer(logger=False, default_root_dir=folder, enable_checkpointing=False)
        ...     log_image(trainer, "val/noise", torch.rand(3, 8, 8), step=20)
        ...     [path.name for path in Path(folder, "images").iterdir()]
        ['val_noise_000020.png']
    """
    # log_dir asks the main process, so every process must read it
    folder = trainer.log_dir or trainer.default_root_dir
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    array = to_array(image)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [array], step=step, caption=[caption])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, array, step, dataformats="HWC")
    file_name = re.sub(r"[^\w.-]", "_", name)
    path = Path(folder, "images", f"{file_name}_{step:06d}.png")
    with outlasting(path):
        save_image(image, path)
