"""What `predict` leaves of a GAN: a file of samples, and a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_advreg.callbacks.convergence_moment import ranks_of
from lightning_advreg.callbacks.generators import classes_of
from lightning_advreg.callbacks.image_log import log_image
from lightning_advreg.callbacks.schedule import check_positive
from lightning_advreg.data.generated_file import write_generated
from lightning_advreg.networks.pixels import to_bytes
from lightning_advreg.reporting import image_grid


class SampleFile(Callback):
    """Write what a generator gives in ``predict`` to ``<run folder>/samples.npz``, and the first images as a grid.

    ``predict_step`` gives images ``(N, C, H, W)`` in [0, 1], of a conditional generator with the labels of the batch,
    or a pair of images and labels ``(N,)``. The file has ``image``, uint8 ``(N, H, W, C)``, and, where there are
    labels, ``label``: what ``extra_path`` of the DataModules takes. The grid is
    ``images/predicted_samples_000000.png``. Several processes write one file. ``lightning-advreg predict`` adds this
    callback to modules with a ``generator``.

    Args:
        num_shown: How many images to show.

    Attributes:
        path: The file that was written, or None.

    Raises:
        TypeError: If ``predict_step`` gives anything else.
        ValueError: If ``num_shown`` is below 1.

    Example:
        >>> SampleFile(num_shown=25).num_shown
        25
    """

    def __init__(self, num_shown: int = 64) -> None:
        super().__init__()
        self.num_shown = check_positive(num_shown, "num_shown")
        self.path: Path | None = None
        self._images: list[Tensor] = []
        self._labels: list[Tensor] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the images of an earlier run."""
        self._images, self._labels, self.path = [], [], None

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the images, as bytes."""
        parts: Sequence[object] = outputs if isinstance(outputs, list | tuple) else (outputs,)
        images, labels = parts[0] if parts else None, parts[1] if len(parts) == 2 else None
        if not isinstance(images, Tensor) or images.dim() != 4 or len(parts) > 2:
            raise TypeError(
                f"SampleFile writes images (N, C, H, W), or a pair of them and labels, and predict_step of "
                f"{type(pl_module).__name__} gives {type(outputs).__name__}; leave the callback out."
            )
        self._images.append(to_bytes(images).cpu())
        if labels is None and classes_of(pl_module) is not None and isinstance(batch, list | tuple):
            labels = batch[1]
        if isinstance(labels, Tensor):
            self._labels.append(labels.cpu())

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file and the picture."""
        if not self._images:
            return
        found = ranks_of(trainer).gather((torch.cat(self._images), torch.cat(self._labels) if self._labels else None))
        images = torch.cat([part for part, _ in found])
        labels = [part for _, part in found if part is not None]
        shown = images[: self.num_shown].float() / 255
        grid = image_grid(shown, columns=math.ceil(math.sqrt(len(shown))))
        log_image(trainer, "predicted_samples", grid, step=0)
        # log_dir asks the main process, so every process must read it
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.path = write_generated(folder / "samples.npz", images, torch.cat(labels) if labels else None)
        self._images, self._labels = [], []
