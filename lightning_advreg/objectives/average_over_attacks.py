"""An objective averaged over several attacks, such as one per norm."""

from itertools import chain, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Self

from lightning_advreg.attacks import Attack, Model
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.objectives.pgd_at import PGDAT
from lightning_advreg.recorded import Recorded


class AverageOverAttacks(Objective, Recorded, nn.Module):
    """The mean of an objective over the attacks of a ``WorstOf``: ``1/m sum_i objective(model, x, y, attack_i)``.

    The strategy "avg" against a union of perturbations (Tramèr & Boneh 2019, section 3); the attack ``WorstOf`` with
    any other objective is their strategy "max". The logits handed on are the clean ones of the first attack's loss, and
    for each image those of the attack with the highest cross-entropy. An objective that uses clean images passes them
    through the network once for each attack.

    Args:
        objective: What is averaged; None for ``PGDAT()``.

    Example:
        >>> from lightning_advreg.attacks import FGSM
        >>> from lightning_advreg.attacks.worst_of import WorstOf
        >>> x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0])
        >>> attack = WorstOf([FGSM(eps=0.25), FGSM(eps=0)])
        >>> # log(1 + exp(0.5)) for the one, log(2) for the other
        >>> round(AverageOverAttacks()(torch.nn.Flatten(), x, y, attack).loss.item(), 4)
        0.8336
    """

    def __init__(self, objective: Objective | None = None) -> None:
        super().__init__()
        # no default object in the signature: jsonargparse would hand its settings on to whatever class replaces it
        self.objective = PGDAT() if objective is None else objective
        self.replays = self.objective.replays
        self.double_backward = self.objective.double_backward

    @property
    def sees_clean(self) -> bool:
        """Whether the objective that is averaged does."""
        return self.objective.sees_clean

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Craft for every attack.

        Returns:
            What the objective crafted for the first attack, for the second, and so on; then how many tensors each of
            them gave, int64 on the CPU.

        Raises:
            TypeError: If the attack is not several.
        """
        attacks = getattr(attack, "attacks", None)
        if not attacks:
            raise TypeError(
                f"AverageOverAttacks needs an attack that holds several, such as WorstOf([PGD(), FGSM()]), got "
                f"{attack!r}; give it one, or train with the objective {type(self.objective).__name__} itself."
            )
        parts = [self.objective.craft(model, x, y, member) for member in attacks]
        # on the CPU, where reading it waits for no device
        sizes = torch.tensor([len(part) for part in parts], device="cpu")
        return (*chain.from_iterable(parts), sizes)

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the mean of the objective over the attacks."""
        tensors = iter(crafted[:-1])
        outputs = [self.objective.loss(model, x, y, tuple(islice(tensors, size))) for size in crafted[-1].tolist()]
        loss = torch.stack([output.loss for output in outputs]).mean()
        return ObjectiveOutput(loss, outputs[0].logits, _worst([output.logits_adv for output in outputs], y))

    def during(self, progress: float, step: int) -> Self:
        """Give the average of the objective of that moment."""
        objective = self.objective.during(progress, step)
        return self if objective is self.objective else type(self)(objective)


@torch.no_grad()
def _worst(logits: list[Tensor | None], y: Tensor) -> Tensor | None:
    """Give each image's logits ``(K,)`` with the highest cross-entropy, or None where an attack gave none."""
    given = [z for z in logits if z is not None]
    if len(given) < len(logits):
        return None
    stacked = torch.stack(given)
    losses = torch.stack([F.cross_entropy(z, y, reduction="none") for z in given])
    return stacked[losses.argmax(0), torch.arange(len(y), device=y.device)]
