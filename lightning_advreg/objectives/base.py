"""What every objective is: the outer minimisation of training."""

from abc import ABC, abstractmethod
from typing import NamedTuple, TypeAlias

from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks import Attack, Model

Crafted: TypeAlias = tuple[Tensor, ...]
"""What an objective keeps fixed while it differentiates with respect to the weights: attacked images first."""


class ObjectiveOutput(NamedTuple):
    """What an objective gives for one batch.

    Attributes:
        loss: What training minimises, a scalar.
        logits: The logits of the clean images ``(N, K)``, where the objective computed them anyway.
        logits_adv: The logits of the attacked images ``(N, K)``, where there are any.
    """

    loss: Tensor
    logits: Tensor | None = None
    logits_adv: Tensor | None = None


class Objective(ABC):
    """Outer minimisation: from a batch and an attack to a loss, in two parts.

    :meth:`craft` attacks the batch at the weights of the moment; :meth:`loss` is a function of the weights, with what
    was crafted held fixed. Weight perturbations (AWP, SAM) take the loss twice and craft once. An objective computes
    nothing that the loss does not need, since each forward pass is a noticeable share of a training step.

    Attributes:
        replays: How often training goes over each batch, with an optimizer step each time.
        double_backward: Whether a pass is differentiated more than once, which compiled networks do not allow.
    """

    replays: int = 1
    double_backward: bool = False

    @property
    def sees_clean(self) -> bool:
        """Whether the loss runs clean images through the network, by ``run_clean``, which ``DualBatchNorm`` needs."""
        return False

    def __call__(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> ObjectiveOutput:
        """Give the loss of a batch under attack.

        Args:
            model: From images to logits, in training mode.
            x: Images ``(N, C, H, W)`` in [0, 1].
            y: Labels ``(N,)``, int64.
            attack: The inner maximisation.
        """
        return self.loss(model, x, y, self.craft(model, x, y, attack))

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Attack the batch; what comes back is detached."""
        return (attack(model, x, y),)

    @abstractmethod
    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the loss of ``model`` on a batch and what was crafted from it."""

    def during(self, progress: float, step: int) -> Self:
        """Give the objective for a moment of training, where its weights follow a schedule.

        Args:
            progress: The share of training that is done, in [0, 1].
            step: The number of batches before this one.
        """
        return self
