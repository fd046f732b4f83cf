"""A soft limit on how a discriminator's logit of an image changes when the image is augmented."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.augmentations import Augmentation, DiscriminatorAugmentation
from lightning_advreg.penalties.base import Coefficient, as_coefficient
from lightning_advreg.penalties.critic import CriticPass, CriticPenalty, Which

ImageFunction: TypeAlias = Callable[..., Any]
"""From images to images; not ``Callable[[Tensor], Tensor]``, which jsonargparse takes for a way to build a Tensor."""


@dataclass(frozen=True)
class Consistency(CriticPenalty):
    """The consistency of a discriminator under augmentations T, ``weight * E (D(x) - D(T(x)))^2``.

    CR of Zhang et al. (2020), on real images; balanced, bCR of Zhao et al. (2021), the same term of
    generated images is added. The loss itself sees images without T. It takes the logits that the step has, and one
    pass more for the augmented images of each kind, in the precision of the step; differences are float32.

    Args:
        weight: The coefficient, at least 0; a number or a schedule. 10 in both papers.
        augmentation: What should not matter: any callable from images ``(N, C, H, W)`` in [0, 1] to such images that
            draws for each image by itself, or an ``Augmentation`` of this library that leaves labels alone.
        balanced: Whether to add the term of generated images.

    Raises:
        TypeError: If ``augmentation`` cannot be called.
        ValueError: If ``weight`` is negative, or the augmentation mixes labels.

    Example:
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
        >>> _ = torch.nn.init.constant_(critic[1].weight, 1.0)
        >>> x = torch.zeros(3, 1, 2, 2)
        >>> round(Consistency(10.0, augmentation=lambda images: images + 0.25)(critic, x, x).item(), 3)
        10.0
    """

    weight: Coefficient = 10.0
    _: KW_ONLY
    augmentation: DiscriminatorAugmentation | Augmentation | ImageFunction
    balanced: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", as_coefficient(self.weight, "weight"))
        if not callable(self.augmentation):
            raise TypeError(f"augmentation must be a function of images, got {self.augmentation!r}.")
        if isinstance(self.augmentation, Augmentation) and self.augmentation.mixes_labels:
            raise ValueError(f"augmentation must leave each image by itself, got {self.augmentation!r}, which mixes.")

    def terms(self, critic_pass: CriticPass) -> tuple[Tensor, ...]:
        """Give the mean squared difference, of generated images too where balanced."""
        kinds: tuple[Which, ...] = ("real", "fake") if self.balanced else ("real",)
        differences = [
            working_precision(critic_pass.logits(kind))
            - working_precision(critic_pass.score(self._view(critic_pass, kind)))
            for kind in kinds
        ]
        return (torch.stack([difference.square().mean() for difference in differences]).sum(),)

    @torch.no_grad()
    def _view(self, critic_pass: CriticPass, which: Which) -> Tensor:
        x = critic_pass.images(which).detach()
        if isinstance(self.augmentation, Augmentation):
            return self.augmentation(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))[0]
        return self.augmentation(x)
