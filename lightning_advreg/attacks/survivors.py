"""The images of a batch that an attack has not beaten yet: the rest cost nothing more."""

from collections.abc import Callable
from typing import overload

import torch
from torch import Tensor

from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.threat import Ball, spread

_STEPS_BETWEEN = 10


class Survivors:
    """Images under attack, which leave as soon as the network gets them wrong.

    An attack calls :meth:`retire` in every step, with what it has found. On the CPU images leave at once. On other
    devices, where to count them means to wait for the device, they leave in every tenth step; what was found in between
    is kept. A success counts where the original network confirms it.

    Args:
        objective: Of the whole batch.
        feasible: Of the whole batch.

    Attributes:
        objective: That of the images left.
        feasible: That of the images left.
        result: What was found, for the whole batch; clean images at first.
        fallen: Which images of the batch have left, bool of shape ``(N,)``.
    """

    def __init__(self, objective: InnerObjective, feasible: Ball) -> None:
        self.objective, self.feasible = objective, feasible
        self.result = feasible.x.clone()
        self.fallen = torch.zeros(len(objective), dtype=torch.bool, device=objective.x.device)
        self._rows = torch.arange(len(objective), device=objective.x.device)
        self._hit = torch.zeros_like(self.fallen)
        self._every = 1 if objective.x.device.type == "cpu" else _STEPS_BETWEEN
        self._step = 0
        self._watch: Callable[[int], None] | None = getattr(objective.model, "watch", None)

    def __len__(self) -> int:
        return len(self._rows)

    def retire(self, x_adv: Tensor, hit: Tensor, *, now: bool = False) -> Tensor | None:
        """Let the images that are misclassified leave.

        Args:
            x_adv: Feasible images, one for each image left.
            hit: Which of them reach the goal, bool.
            now: Count them in this step, whatever the device.

        Returns:
            The rows, among the images left so far, of those that stay, to select an attack's own state by; None if
            all stay.
        """
        self._step += 1
        if self._every > 1:
            self._keep(x_adv, hit)
            if not now and self._step % self._every:
                return None
            x_adv, hit = self.result[self._rows], self._hit[self._rows]
        if not bool(hit.any()):
            self._report(0)
            return None
        confirmed = self.objective.confirmed(x_adv, hit)
        if self._every > 1:
            self._hit[self._rows] = confirmed
        gone, kept = confirmed.nonzero().squeeze(1), (~confirmed).nonzero().squeeze(1)
        self.result[self._rows[gone]] = x_adv[gone]
        self.fallen[self._rows[gone]] = True
        self._report(len(gone))
        if len(gone) == 0:
            return None
        self._rows = self._rows[kept]
        self.objective, self.feasible = self.objective.select(kept), self.feasible.select(kept)
        return kept

    def settle(self, x_adv: Tensor) -> None:
        """Note what was found for each image left, of which those caught meanwhile leave.

        An attack calls this at the end of a run; the images left are those to attack again.
        """
        if self._every > 1:
            x_adv = keep_rows(self.retire(x_adv, torch.zeros_like(self._hit[self._rows]), now=True), x_adv)
        self.result[self._rows] = x_adv

    @property
    def rows(self) -> Tensor:
        """Places in the batch of the images left, int64."""
        return self._rows

    def _keep(self, x_adv: Tensor, hit: Tensor) -> None:
        new = hit & ~self._hit[self._rows]
        self.result[self._rows] = torch.where(spread(new, x_adv), x_adv, self.result[self._rows])
        self._hit[self._rows] |= new

    def _report(self, fallen: int) -> None:
        if self._watch is not None:
            self._watch(fallen)


@overload
def keep_rows(rows: Tensor | None, part: Tensor) -> Tensor: ...
@overload
def keep_rows(rows: Tensor | None, part: Tensor | None) -> Tensor | None: ...
def keep_rows(rows: Tensor | None, part: Tensor | None) -> Tensor | None:
    """Select rows of an attack's state, or leave it as it is where all stay."""
    return part if rows is None or part is None else part[rows]
