"""What `predict` leaves of a classifier: a file of logits and classes."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_advreg.callbacks.convergence_moment import ranks_of
from lightning_advreg.files import writing


class PredictionFile(Callback):
    """Write what a classifier gives in ``predict`` to ``<run folder>/predictions.npz``.

    ``predict_step`` gives logits ``(N, K)``. The file has ``logits``, float32 ``(N, K)``, ``prediction``, int64
    ``(N,)``, the class of the largest, and ``label``, int64 ``(N,)``, where batches are pairs of images and labels.
    Rows are in the order of the loader; of several processes one after the other, with the share that each has seen.
    ``lightning-advreg predict`` adds this callback to classifiers.

    Attributes:
        path: The file that was written, or None.

    Raises:
        TypeError: If ``predict_step`` gives anything else.

    Example:
        >>> PredictionFile().path is None
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self.path: Path | None = None
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the logits of an earlier run."""
        self._logits, self._labels, self.path = [], [], None

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the logits, and the labels if there are any."""
        if not isinstance(outputs, Tensor) or outputs.dim() != 2:
            found = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
            raise TypeError(
                f"PredictionFile writes logits (N, K), and predict_step of {type(pl_module).__name__} gives {found}; "
                "leave the callback out."
            )
        self._logits.append(outputs.float().cpu())
        labels = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
        if isinstance(labels, Tensor) and labels.shape == outputs.shape[:1]:
            self._labels.append(labels.cpu())

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file."""
        if not self._logits:
            return
        found = ranks_of(trainer).gather((torch.cat(self._logits), torch.cat(self._labels) if self._labels else None))
        logits = torch.cat([part for part, _ in found])
        labels = [part for _, part in found if part is not None]
        # log_dir asks the main process, so every process must read it
        path = Path(trainer.log_dir or trainer.default_root_dir) / "predictions.npz"
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            arrays: dict[str, Any] = {"logits": logits.numpy(), "prediction": logits.argmax(1).numpy()}
            if sum(map(len, labels)) == len(logits):
                arrays["label"] = torch.cat(labels).long().numpy()
            with writing(path) as draft, draft.open("wb") as file:
                np.savez(file, **arrays)
            self.path = path
        self._logits, self._labels = [], []
