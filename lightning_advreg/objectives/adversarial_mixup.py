"""Mixup of clean and of attacked images."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Beta

from lightning_advreg.attacks import Attack, Model
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.networks.dual_norm import run_clean
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class AdversarialMixup(Objective):
    """Interpolated adversarial training (Lamb et al. 2019): mixup of clean images, and of attacked ones.

    The loss is ``(mix(x, y) + mix(x_adv, y)) / 2`` with

    ``mix(x, y) = l CE(f(l x + (1 - l) x_p), y) + (1 - l) CE(f(l x + (1 - l) x_p), y_p)``,

    where ``p`` is a random order of the batch and ``l ~ Beta(alpha, alpha)`` (mixup, Zhang et al. 2018). The attack
    sees the images unmixed. One ``l`` and one ``p`` serve a batch, the clean and the attacked part alike, and are drawn
    with the attack. The logits are those of mixed images, which have no label of their own, and are not handed on.

    Args:
        alpha: How much is mixed, positive: 1 draws ``l`` evenly from [0, 1], smaller values keep images purer.

    Raises:
        ValueError: If ``alpha`` is not positive.

    Example:
        >>> from lightning_advreg.attacks import FGSM
        >>> x, y = torch.full((2, 1, 1, 2), 0.5), torch.tensor([0, 0])
        >>> # log(2) for the clean images, log(1 + exp(0.5)) for those attacked
        >>> round(AdversarialMixup()(torch.nn.Flatten(), x, y, FGSM(eps=0.25)).loss.item(), 4)
        0.8336
    """

    # no annotation, which would make it an argument
    sees_clean = True

    alpha: Number = 1.0

    def __post_init__(self) -> None:
        alpha = to_float(self.alpha, "alpha")
        if alpha <= 0:
            raise ValueError(f"alpha must be positive, got {self.alpha!r}; for no mixup use PGDAT(clean_weight=0.5).")
        object.__setattr__(self, "alpha", alpha)

    def craft(self, model: Model, x: Tensor, y: Tensor, attack: Attack) -> Crafted:
        """Attack the batch, and draw what is mixed with what; gives ``x_adv``, ``p`` (int64) and ``l``."""
        x_adv = attack(model, x, y)
        # on the CPU: its generator is the one that checkpoints keep, and no device has to be waited for
        order = torch.randperm(len(x), device="cpu").to(x.device, non_blocking=True)
        alpha = torch.tensor(to_float(self.alpha, "alpha"), dtype=torch.float64, device="cpu")
        # in the precision of the loss: the product of two scalars takes the wider type
        return x_adv, order, Beta(alpha, alpha).sample().to(working_precision(x).dtype)

    def loss(self, model: Model, x: Tensor, y: Tensor, crafted: Crafted) -> ObjectiveOutput:
        """Give the average of the mixup loss of clean and of attacked images."""
        x_adv, order, share = crafted
        losses = []
        for run, images in ((partial(run_clean, model), x), (model, x_adv)):
            logits = working_precision(run(share * images + (1 - share) * images[order]))
            losses.append(share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[order]))
        return ObjectiveOutput((losses[0] + losses[1]) / 2)
