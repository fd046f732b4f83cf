"""The worst case over several attacks, such as one per norm."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from lightning_advreg.attacks.base import Attack
from lightning_advreg.attacks.losses import LossName
from lightning_advreg.attacks.model_state import Model, borrowed
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.attacks.threat import spread
from lightning_advreg.attacks.variants import maximising, scaled, unchecked, with_steps


@dataclass(frozen=True)
class WorstOf(Attack):
    """Several attacks, of which each image keeps the result with the highest cross-entropy: ``max_i CE(f(x_i), y)``.

    With one attack per norm this trains against a union of balls, the strategy "max" of Tramèr & Boneh (2019, section
    3) and of Maini et al. (2020). The objective ``AverageOverAttacks`` is their strategy "avg". Each attack runs in
    full and costs one more forward pass, in eval mode, that measures what it reached; a single attack costs none. Where
    several reach the same loss, the first of them counts.

    Args:
        attacks: The attacks, one or more, untargeted.
        check: Let the attacks check pixel range and labels as their own settings say. False spares all of them the
            check and its device synchronisation.

    Raises:
        TypeError: If ``attacks`` is not a list of attacks.
        ValueError: If there are none, or one is targeted.

    Example:
        >>> from lightning_advreg.attacks import FGSM
        >>> model = torch.nn.Flatten()  # the logits are the pixels
        >>> x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0])
        >>> WorstOf([FGSM(eps=0.1), FGSM(norm="l2", eps=0.2)])(model, x, y)
        tensor([[[[0.3586, 0.6414]]]])
    """

    attacks: Sequence[Attack]
    _: KW_ONLY
    check: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.attacks, Sequence) or not all(callable(attack) for attack in self.attacks):
            raise TypeError(f"attacks must be a list of attacks, such as [PGD(), FGSM()], got {self.attacks!r}.")
        if not self.attacks:
            raise ValueError("attacks must hold at least one attack, such as [PGD()], got none.")
        for attack in self.attacks:
            if getattr(attack, "targeted", False):
                raise ValueError(
                    f"attacks must be untargeted, got {attack!r}: a target reached has a low cross-entropy, and would "
                    "never be the worst case; set targeted=False."
                )
        object.__setattr__(self, "attacks", tuple(a if self.check else unchecked(a) for a in self.attacks))

    def __call__(self, model: Model, x: Tensor, y: Tensor) -> Tensor:
        """Run every attack, and keep the worst result for each image."""
        worst = self.attacks[0](model, x, y)
        if len(self.attacks) == 1:
            return worst
        highest = _cross_entropy(model, worst, y)
        for attack in self.attacks[1:]:
            x_adv = attack(model, x, y)
            loss = _cross_entropy(model, x_adv, y)
            higher = loss > highest
            worst = torch.where(spread(higher, x), x_adv, worst)
            highest = torch.where(higher, loss, highest)
        return worst

    def maximising(self, loss: LossName) -> Self:
        """Give the same attacks on another loss; the worst case is still the one with the highest cross-entropy."""
        return self._with(maximising(attack, loss) for attack in self.attacks)

    def scaled(self, factor: float) -> Self:
        """Give the same attacks with budgets and step sizes multiplied by ``factor`` >= 0."""
        return self._with(scaled(attack, factor) for attack in self.attacks)

    def with_steps(self, steps: int) -> Self:
        """Give the same attacks with another number of steps, each of the same size.

        Raises:
            TypeError: If one of them has no number of steps.
        """
        return self._with(with_steps(attack, steps) for attack in self.attacks)

    def _with(self, attacks: Iterable[Attack]) -> Self:
        return dataclasses.replace(self, attacks=tuple(attacks))


def _cross_entropy(model: Model, x_adv: Tensor, y: Tensor) -> Tensor:
    with borrowed(model), torch.no_grad():
        loss = F.cross_entropy(working_precision(model(x_adv)), y.to(torch.int64), reduction="none")
    # no loss is higher than an undefined one, which would keep its image whatever the other attacks reach
    return loss.nan_to_num(nan=-torch.inf, posinf=torch.inf)
