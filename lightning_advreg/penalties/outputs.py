"""A soft limit on how sure the network is."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_advreg.penalties.base import Coefficient, Penalty, as_coefficient
from lightning_advreg.penalties.training_pass import TrainingPass


@dataclass(frozen=True)
class ConfidencePenalty(Penalty):
    """The negative entropy of the predictions, ``-weight * mean_n H(softmax(f(x_n)))`` (Pereyra et al. 2017, eq. 2).

    ``H(p) = -sum_k p_k log p_k`` in nats, so that the raw value goes from ``-log K``, unsure of everything, to 0. It
    takes the logits that the loss is computed from, of attacked images in adversarial training, and no pass of its own
    but where an objective hands on none.

    Args:
        weight: The coefficient, at least 0; a number or a schedule. 0.1 to 1 in the paper.

    Raises:
        ValueError: If ``weight`` is negative.

    Example:
        >>> round(ConfidencePenalty(1.0)(torch.zeros(4, 10)).item(), 4)  # -log 10
        -2.3026
    """

    on_images = True

    weight: Coefficient

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", as_coefficient(self.weight, "weight"))

    def __call__(self, logits: Tensor, *, epoch: float = math.inf) -> Tensor:
        """Give the penalty of logits ``(N, K)``.

        Args:
            logits: The logits.
            epoch: The epoch whose coefficient counts.
        """
        return self.weigh(self.terms(logits), epoch).value

    def terms(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Give the mean negative entropy of logits ``(N, K)``."""
        log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1)
        return ((log_p.exp() * log_p).sum(1).mean(),)

    def terms_of(self, training_pass: TrainingPass) -> tuple[Tensor, ...]:
        """Give the raw term of a training step."""
        return self.terms(training_pass.logits())
