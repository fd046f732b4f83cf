"""Constraints that carry tensors from step to step, one for each weight of a network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_advreg.constraints.base import Projection
from lightning_advreg.constraints.bounds import FullPrecision
from lightning_advreg.recorded import Recorded


class StatefulProjection(Recorded, Projection, FullPrecision):
    """A projection with buffers that are made when a weight is first seen.

    A checkpoint decides which there are: it fills those that it has, and drops the others, so that a checkpoint from
    before the first projection is one of an object that has seen nothing.
    """

    def _held(
        self, kind: str, name: str, shape: tuple[int, ...], make: Callable[[tuple[int, ...]], Tensor], like: Tensor
    ) -> tuple[Tensor, bool]:
        """Give the buffer of a weight, on the device of ``like``, and whether it has been made just now."""
        # a compiled network has its names below _orig_mod, and buffers may have no dots in theirs
        key = f"{kind}/{name}".replace("_orig_mod.", "").replace(".", "/")
        held = self._buffers.get(key)
        fresh = held is None or held.shape != shape
        # a tensor made in inference mode could not be changed outside it
        with torch.inference_mode(False):
            held = (make(shape) if held is None or fresh else held).to(like.device)
            if held is not self._buffers.get(key):
                self.register_buffer(key, held)
        return held, fresh

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        stored = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        for name in list(self._buffers):
            del self._buffers[name]
        for name, value in stored.items():
            # as _held names them, and nothing of a bound below
            if "/" in name:
                self.register_buffer(name, torch.empty_like(value))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
