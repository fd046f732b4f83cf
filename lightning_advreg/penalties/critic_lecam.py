"""A soft limit on how far a discriminator's logits drift from what they were."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.penalties.base import Coefficient, as_coefficient
from lightning_advreg.penalties.critic import CriticPass, CriticPenalty
from lightning_advreg.recorded import Recorded
from lightning_advreg.values import Number, to_float


class LeCam(Recorded, CriticPenalty, nn.Module):
    """The LeCam regularisation, ``weight * (E (D(x) - a_fake)^2 + E (D(G(z)) - a_real)^2)``.

    Tseng et al. (2021), for training with few images. ``a_real`` and ``a_fake`` are moving averages of the mean
    logits of real and of generated images, over the discriminator's batches and over all processes. They are buffers,
    which travel in checkpoints. No pass through the discriminator is added. The authors' code squares the positive
    parts of ``D(x) - a_fake`` and ``a_real - D(G(z))`` alone.

    Args:
        weight: The coefficient, at least 0; a number or a schedule. 0.3 in the authors' code, for hinge and others.
        decay: The decay of the moving averages for each batch, in [0, 1).
        start_step: The number of batches after which it begins; until then the averages alone are kept.

    Attributes:
        averages: The moving averages ``(a_real, a_fake)``.
        seen: The number of batches in them, int64.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> critic, penalty = nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), LeCam(start_step=0)
        >>> _ = [nn.init.zeros_(parameter) for parameter in critic.parameters()]
        >>> penalty(critic, torch.rand(3, 1, 2, 2), torch.rand(3, 1, 2, 2)).item()
        0.0
    """

    averages: Tensor
    seen: Tensor

    def __init__(self, weight: Coefficient = 0.3, *, decay: Number = 0.99, start_step: int = 1000) -> None:
        super().__init__()
        self.weight = as_coefficient(weight, "weight")
        self.decay = to_float(decay, "decay", minimum=0, below=1)
        if isinstance(start_step, bool) or not isinstance(start_step, int) or start_step < 0:
            raise ValueError(f"start_step must be an integer of at least 0, a number of batches, got {start_step!r}.")
        self.start_step = start_step
        self.register_buffer("averages", torch.zeros(2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def terms(self, critic_pass: CriticPass) -> tuple[Tensor, ...]:
        """Follow the logits, and give the squared distances from the averages, or 0 before the start."""
        real, fake = (working_precision(critic_pass.logits(which)) for which in ("real", "fake"))
        self._follow_(real, fake)
        a_real, a_fake = self.averages.to(real, copy=True)
        distance = (real - a_fake).square().mean() + (fake - a_real).square().mean()
        # a factor on the device: to ask for the count would be to wait for it
        return (distance * (self.seen > self.start_step),)

    @torch.no_grad()
    def _follow_(self, real: Tensor, fake: Tensor) -> None:
        means = torch.stack([real.mean(), fake.mean()]).to(self.averages)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(means)
            means = means / torch.distributed.get_world_size()
        # the first batch is the average of itself
        self.averages.copy_(torch.where(self.seen == 0, means, means.lerp(self.averages, self.decay)))
        self.seen.add_(1)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        # in a checkpoint of a run without this penalty there is nothing
        if any(key.startswith(prefix) for key in state_dict):
            super()._load_from_state_dict(state_dict, prefix, *args)
