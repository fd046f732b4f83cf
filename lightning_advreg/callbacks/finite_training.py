"""Training whose numbers stay finite: the bad batch is kept, and no checkpoint is overwritten by a broken one."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_advreg.callbacks.continuation import newest_checkpoint
from lightning_advreg.callbacks.convergence_measurements import loss_of
from lightning_advreg.callbacks.schedule import check_positive
from lightning_advreg.files import writing
from lightning_advreg.files.outlasting import outlasting

FILE = "bad_batch.pt"
"""The name of the file in the run folder."""

_MOST_SHAPES = 4


class FirstBadBatch:
    """Keeps the first batch whose loss was not finite, without waiting for the device.

    Every batch is offered, and ``torch.where`` takes it or leaves it on the device, so that one batch is kept for each
    shape that occurs, and the host never waits.

    Example:
        >>> first = FirstBadBatch()
        >>> for index, loss in enumerate([1.0, float("nan"), float("inf")]):
        ...     first.add(torch.tensor(loss), (torch.full((2,), index),), index)
        >>> index, tensors = first.take()
        >>> index, tensors, first.take()
        (1, [tensor([1, 1])], None)
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], tuple[Tensor, list[Tensor]]] = {}
        self._found: Tensor | None = None

    def add(self, loss: Tensor, batch: object, index: int) -> None:
        """Offer a batch.

        Args:
            loss: Its loss, of any shape.
            batch: Anything that holds tensors.
            index: Its number.
        """
        bad = ~loss.detach().isfinite().all()
        found = torch.zeros_like(bad) if self._found is None else self._found
        first = bad & ~found
        self._found = found | bad
        tensors = [leaf.detach() for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        if key not in self._kept:
            if len(self._kept) == _MOST_SHAPES:
                # the one moment at which the host waits, for loaders whose batches differ in shape
                if bool(found):
                    return
                self._kept.clear()
            none = torch.full((), -1, dtype=torch.int64, device=loss.device)
            self._kept[key] = (none, [torch.zeros_like(tensor) for tensor in tensors])
        kept, old = self._kept[key]
        pairs = zip(tensors, old, strict=True)
        self._kept[key] = (
            kept.masked_fill(first, index),
            [torch.where(first.to(one.device), one, other) for one, other in pairs],
        )

    def take(self) -> tuple[int, list[Tensor]] | None:
        """Give the number and the tensors of the first bad batch, wait for them, and begin anew; None without any."""
        kept, self._kept = list(self._kept.values()), {}
        any_found, self._found = self._found, None
        if any_found is None or not bool(any_found):
            return None
        index, tensors = max(((int(index), tensors) for index, tensors in kept), key=lambda pair: pair[0])
        return index, [tensor.cpu() for tensor in tensors]


class FiniteTraining(Callback):
    """Ends a training whose weights are no longer finite, with the last good checkpoint untouched.

    Losses are looked at every ``every_n_batches`` batches and at the end of each epoch, in between they are noted on
    the device. The first batch whose loss is NaN or infinite is written to ``bad_batch.pt`` in the run folder, as a
    dictionary of ``tensors`` (those of the batch, as the loader gave them), ``batch_idx``, ``epoch`` and
    ``global_step``, which ``torch.load(weights_only=True)`` reads; other processes than the first write
    ``bad_batch_rank1.pt`` and so on. As long as the weights are finite, since a gradient scaler left the step out or
    ``ConvergenceMonitor`` went back, training goes on. Weights and BatchNorm statistics that are not finite end it, and
    never come into a checkpoint.

    The loss is what ``training_step`` gives or, in manual optimisation, every value with ``loss`` in its name, of the
    mapping that it gives or else of what is logged.
    The command line adds this callback to every ``fit`` that has none.

    Args:
        every_n_batches: How often to look; each look waits for the device.

    Raises:
        FloatingPointError: In training, or while a checkpoint is written, if weights are not finite.
        ValueError: If ``every_n_batches`` is not positive.

    Example:
        >>> trainer = pl.Trainer(callbacks=[FiniteTraining(every_n_batches=100)], logger=False, accelerator="cpu")
    """

    def __init__(self, every_n_batches: int = 50) -> None:
        super().__init__()
        self.every_n_batches = check_positive(every_n_batches, "every_n_batches")
        self._first = FirstBadBatch()
        self._folder: Path | None = None
        self._bad = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin anew."""
        self._first, self._bad = FirstBadBatch(), ""
        # log_dir asks the main process, so every process must read it, and not one alone when it has a bad batch
        folder = trainer.log_dir
        self._folder = None if folder is None or trainer.fast_dev_run else Path(folder)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Note the loss, and look if it is time."""
        loss = loss_of(outputs)
        if loss is None and not pl_module.automatic_optimization:
            loss = _losses_in(outputs) if isinstance(outputs, Mapping) else None
            if loss is None:
                # turns what a progress bar shows into numbers, for which the host has to wait
                loss = _losses_in(trainer.callback_metrics)
        if loss is not None:
            self._first.add(loss, batch, batch_idx)
        if (batch_idx + 1) % self.every_n_batches == 0:
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, before checkpoints are written."""
        self._look(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to write weights that are not finite."""
        # validation within fit writes checkpoints too; what is saved when all is over is the caller's choice
        fitting = trainer.state.fn == TrainerFn.FITTING and trainer.state.status != TrainerStatus.FINISHED
        if fitting and self._lost(trainer, pl_module):
            self._note(trainer)
            raise FloatingPointError(self._sentence(trainer))

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note(trainer)
        # a monitor that ends the training has said why, and still has to write its record
        if self._lost(trainer, pl_module) and not trainer.should_stop:
            raise FloatingPointError(self._sentence(trainer))

    def _note(self, trainer: pl.Trainer) -> None:
        found = self._first.take()
        # those that follow come of the first
        if found is None or self._bad:
            return
        index, tensors = found
        self._bad = f"the loss of batch {index} of epoch {trainer.current_epoch} was not finite."
        if trainer.world_size > 1:
            self._bad = f"process {trainer.global_rank}: {self._bad}"
        if self._folder is not None:
            rank = trainer.global_rank
            path = self._folder / (FILE if rank == 0 else f"bad_batch_rank{rank}.pt")
            content = {
                "tensors": tensors,
                "batch_idx": index,
                "epoch": trainer.current_epoch,
                "global_step": trainer.global_step,
            }
            with outlasting(path), writing(path) as draft:
                torch.save(content, draft)
            self._bad += f' The batch is in {path}: torch.load("{path}", weights_only=True).'
        warnings.warn(self._bad, stacklevel=2)

    def _lost(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        lost = not finite_weights(pl_module)
        return bool(trainer.strategy.reduce_boolean_decision(lost, all=False))

    def _sentence(self, trainer: pl.Trainer) -> str:
        checkpoint = newest_checkpoint(trainer)
        kept = "No checkpoint was written yet." if checkpoint is None else f"The last good checkpoint is {checkpoint}."
        return (
            f"epoch {trainer.current_epoch}, step {trainer.global_step}: weights are not finite, and training ends; "
            f"{self._bad or 'no loss was, so a gradient or a step must have been too large.'} {kept} Lower the "
            "learning rate, clip gradients (trainer.gradient_clip_val=1; gradient_clip_val=1 of a GAN), look for NaN "
            "in the data, or let ConvergenceMonitor(action='rollback') go back."
        )


def finite_weights(module: nn.Module) -> bool:
    """Tell whether all weights and BatchNorm statistics are finite; waits for the device once.

    Args:
        module: The module.

    Example:
        >>> layer = nn.BatchNorm2d(3)
        >>> finite_weights(layer)
        True
        >>> _ = layer.running_mean.fill_(float("inf"))
        >>> finite_weights(layer)
        False
    """
    tensors: list[Tensor] = [*module.parameters()]
    for name, buffer in module.named_buffers():
        # other buffers may be infinite for a reason, such as the best value so far
        if name.rpartition(".")[2] in ("running_mean", "running_var"):
            tensors.append(buffer)
    checks = [tensor.detach().isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    if not checks:
        return True
    device = checks[0].device
    return bool(torch.stack([check.to(device) for check in checks]).all())


def _losses_in(named: Mapping[str, Any]) -> Tensor | None:
    found = [
        value.detach().float().sum()
        for name, value in named.items()
        if "loss" in name and not name.startswith(("val", "test")) and isinstance(value, Tensor)
    ]
    return torch.stack(found) if found else None
