"""A good moment of a training, to which it can go back."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_advreg.callbacks.weight_average import WeightAverage


class Snapshot:
    """All that follows the weights, as it was at a moment, copied to the CPU.

    That is the module with its buffers, the states of optimizers, the scale of losses in mixed precision (which a bad
    epoch may have driven to 0), and the averages that ``WeightAverage`` keeps. Learning rates are no part of it: their
    schedule goes on where it is. Nor are the callbacks that follow the run itself, such as ``ModelCheckpoint`` and
    ``EarlyStopping``: the epochs that they count, and the files that they wrote, are still there.

    Args:
        label: What the moment was, such as ``epoch 4``.
        module: The module's ``state_dict``.
        optimizers: The ``state`` of each optimizer.
        precision: The ``state_dict`` of the Trainer's precision plugin.
        averages: The state of each ``WeightAverage``.
    """

    def __init__(
        self,
        label: str,
        module: Mapping[str, Any],
        optimizers: Sequence[Mapping[int, Any]],
        precision: Mapping[str, Any],
        averages: Sequence[Mapping[str, Any]],
    ) -> None:
        self.label = label
        self._module, self._optimizers = dict(module), list(optimizers)
        self._precision, self._averages = dict(precision), list(averages)

    @classmethod
    def take(cls, trainer: pl.Trainer, pl_module: pl.LightningModule, label: str) -> "Snapshot":
        """Copy what training is now."""
        # tensors of inference mode, in which validation runs, could not be trained on
        with torch.inference_mode(False), torch.no_grad():
            return cls(
                label,
                _copied(pl_module.state_dict()),
                [_copied(optimizer.state_dict()["state"]) for optimizer in trainer.optimizers],
                _copied(trainer.precision_plugin.state_dict()),
                [_copied(callback.average.state_dict()) for callback in _with_pending_step(trainer)],
            )

    def restore(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put all of it back, bit for bit, and drop gradients."""
        with torch.inference_mode(False), torch.no_grad():
            # first, since a step that is yet to be averaged belongs to what is left behind
            averaging = _with_pending_step(trainer)
            pl_module.load_state_dict(self._module)
            for optimizer, state in zip(trainer.optimizers, self._optimizers, strict=True):
                # copies: an optimizer goes on with the very tensors it is given
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": _copied(state), "param_groups": groups})
                optimizer.zero_grad(set_to_none=True)
            if self._precision:
                trainer.precision_plugin.load_state_dict(_copied(self._precision))
            # after a resume without or with another number of averages, there is nothing to give to those that are new
            for callback, average in zip(averaging, self._averages, strict=False):
                callback.average.load_state_dict(_copied(average))
                callback.average.follow(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Give plain values and tensors."""
        return {
            "label": self.label,
            "module": self._module,
            "optimizers": self._optimizers,
            "precision": self._precision,
            "averages": self._averages,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Snapshot":
        """Rebuild what :meth:`state_dict` gave."""
        return cls(**_copied(state))


def _with_pending_step(trainer: pl.Trainer) -> list[WeightAverage]:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averaging = [callback for callback in callbacks if isinstance(callback, WeightAverage)]
    for callback in averaging:
        # which averages the last step, where a callback that comes earlier asks
        callback.state_dict()
    return averaging


def _copied(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    return copy.deepcopy(value)
