"""What every objective is: the outer minimisation of training."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from lightning_advreg.attacks import Attack, Model


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
    """Outer minimisation: from a batch and an attack to a loss.

    An objective decides where the attack is called and how often, and which logits enter the loss. It computes nothing
    that the loss does not need, since each forward pass is a noticeable share of a training step.
    """

    @abstractmethod
    def __call__(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> ObjectiveOutput:
        """Give the loss of ``model`` on images ``x`` ``(N, C, H, W)`` in [0, 1] with labels ``y`` ``(N,)``."""
