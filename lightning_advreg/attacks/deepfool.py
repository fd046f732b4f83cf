"""DeepFool: steps to the nearest boundary of a linearised network."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_advreg.attacks.base import MinimalAttack
from lightning_advreg.attacks.hyperplane import DUAL, ORDER, nearest_boundary, wrong_classes
from lightning_advreg.attacks.long import LongAttack
from lightning_advreg.attacks.model_state import Model
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.attacks.survivors import Survivors, keep_rows
from lightning_advreg.attacks.threat import Norm, ball
from lightning_advreg.values import Number, to_float

# where the box cuts every step short, or a fast copy of the network is wrong too early, steps may shrink forever
_PROGRESS = 1e-3


@dataclass(frozen=True, kw_only=True)
class DeepFool(LongAttack, MinimalAttack):
    """DeepFool (Moosavi-Dezfooli et al. 2016, algorithm 2).

    Each step replaces the network by its linearisation at ``x_i``, and goes to the nearest boundary of that: with
    ``gap_l = f_l(x_i) - f_y(x_i)``, ``w_l`` its gradient, and the class l of the smallest ``|gap_l| / ||w_l||_q``,

    - L2: ``r_i = |gap_l| w_l / ||w_l||_2^2``;
    - Linf: ``r_i = |gap_l| sign(w_l) / ||w_l||_1``.

    The next point is ``x_{i+1} = clip(x + (1 + overshoot) (r_0 + ... + r_i))``, until the network gets it wrong. The
    paper does not clip to the box [0, 1]; since that can cut every step short, none is shorter than a thousandth of the
    way so far. A step costs one forward pass and ``candidates - 1`` backward passes, and one forward pass more comes at
    the end. What it finds is near rather than nearest; :class:`FAB` finds nearer images.

    Args:
        norm: The norm in which the perturbation is to be small: ``l2`` or ``linf``.
        eps: Give up images that need a larger perturbation than this, in pixel units: they come back clean. None
            accepts any.
        steps: The largest number of steps, at least 1; images that are not beaten by then come back clean.
        overshoot: How far to go beyond the boundary, as a share of the way, at least 0.
        candidates: How many classes are looked at, the label among them: those most likely for the clean image. None
            looks at all. Without effect if ``targeted``.
        targeted: Treat labels as classes to reach; the boundary is then that to the most likely other class.
        model_mode: How the network runs during the attack.
        seed: Without effect, since nothing is random.
        check: Check pixel range and labels at each call.
        batch_size: Images attacked at once; None chooses what fits the memory.
        progress: Show a bar with images left and accuracy so far.
        checkpoint: A folder where progress is saved after every batch.
        acceleration: How the network is made fast; None searches on the network itself.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> model = torch.nn.Flatten()  # the nearest boundary: both pixels alike
        >>> x = torch.tensor([[[[0.6, 0.4]]]])
        >>> DeepFool(norm="linf", overshoot=0.02)(model, x, torch.tensor([0])).flatten()
        tensor([0.4980, 0.5020])
    """

    norm: Norm = "l2"
    steps: int = 50
    overshoot: Number = 0.02
    candidates: int | None = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm == "l1":
            raise ValueError("DeepFool has no norm 'l1'; use norm='l2' or 'linf', or FAB(norm='l1').")
        self._check_counts("steps")
        self._normalise("overshoot")
        count = self.candidates
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 2):
            raise ValueError(
                f"candidates must be an integer of at least 2, the label and another class, or None, got {count!r}."
            )

    def minimise(self, objective: InnerObjective, x: Tensor, within: Tensor | None) -> Tensor:
        """Step until the network is wrong; images that it gets wrong leave."""
        growth = 1 + to_float(self.overshoot, "overshoot")
        rivals, x_adv, total = self._rivals(objective), x, torch.zeros_like(x)
        survivors = Survivors(objective, ball(self.norm, x, 0.0))
        for _ in range(self.steps):
            gap, normal, logits = nearest_boundary(self.norm, survivors.objective, x_adv, rivals)
            kept = survivors.retire(x_adv, survivors.objective.hits(logits))
            if len(survivors) == 0:
                return survivors.result
            rivals, total = keep_rows(kept, rivals), keep_rows(kept, total)
            total = total + self._move(keep_rows(kept, gap), keep_rows(kept, normal), total)
            x_adv = (survivors.feasible.x + growth * total).clamp(0, 1)
            # what comes back is in the dtype of the images
            x_adv = x_adv.to(objective.x.dtype).to(x.dtype)
        survivors.retire(x_adv, survivors.objective.evaluate(x_adv)[1], now=True)
        return survivors.result

    def _move(self, gap: Tensor, normal: Tensor, total: Tensor) -> Tensor:
        flat = normal.flatten(1)
        # divided by the largest entry: the squares of gradients near 1e-25 would vanish in float32
        largest = flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)
        flat, gap = flat / largest, gap.abs().unsqueeze(1) / largest
        size = torch.linalg.vector_norm(flat, DUAL[self.norm], dim=1, keepdim=True)
        direction = flat / size if self.norm == "l2" else flat.sign()
        way = torch.linalg.vector_norm(total.flatten(1), ORDER[self.norm], dim=1, keepdim=True)
        return torch.where(size > 0, (gap / size).maximum(_PROGRESS * way) * direction, 0.0).view_as(normal)

    def _rivals(self, objective: InnerObjective) -> Tensor:
        logits = objective.clean_logits
        # refuses networks of a single class
        objective.loss(logits)
        wrong = logits.shape[1] - 1
        return wrong_classes(logits, objective.y, wrong if self.candidates is None else min(self.candidates - 1, wrong))

    def _objective(self, model: Model, x: Tensor, y: Tensor) -> InnerObjective:
        return InnerObjective(model, x, y, loss="margin", targeted=self.targeted, check=self.check)
