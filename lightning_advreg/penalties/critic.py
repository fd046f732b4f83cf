"""Soft limits on the discriminator of a GAN, from its real and generated images."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from lightning_advreg.attacks import in_mode
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.penalties.base import Weighted

Which: TypeAlias = Literal["real", "fake"]


class CriticPass:
    """A discriminator's step: the images that it was shown, and its logits of them.

    Args:
        discriminator: From images ``(N, C, H, W)``, and labels where ``y`` is given, to logits ``(N,)``.
        real: Real images ``(N, C, H, W)``, as the discriminator was shown them.
        fake: Generated images of the same shape, without a gradient to the generator.
        y: The labels ``(N,)`` of both, int64; None for a discriminator that takes none.
        real_logits: The step's logits ``(N,)`` of real images, or None to compute them when they are needed.
        fake_logits: The same of generated images.

    Example:
        >>> critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
        >>> x = torch.rand(3, 1, 2, 2)
        >>> CriticPass(critic, x, x).logits("real").shape
        torch.Size([3])
    """

    def __init__(
        self,
        discriminator: nn.Module,
        real: Tensor,
        fake: Tensor,
        y: Tensor | None = None,
        *,
        real_logits: Tensor | None = None,
        fake_logits: Tensor | None = None,
    ) -> None:
        self.discriminator, self.y = discriminator, y
        self.real, self.fake = real, fake
        self._logits: dict[Which, Tensor | None] = {"real": real_logits, "fake": fake_logits}

    def images(self, which: Which) -> Tensor:
        """Give real or generated images ``(N, C, H, W)``."""
        return self.real if which == "real" else self.fake

    def logits(self, which: Which) -> Tensor:
        """Give logits ``(N,)`` of real or generated images, those of the step where it has them."""
        known = self._logits[which]
        if known is None:
            known = self._logits[which] = self.score(self.images(which).detach())
        return known

    def differentiable(self, which: Which) -> tuple[Tensor, Tensor]:
        """Give images that require a gradient, and logits computed from them, in float32 at least."""
        x, logits = self.images(which), self._logits[which]
        if x.requires_grad and logits is not None and logits.requires_grad:
            return x, logits
        x = working_precision(x.detach()).requires_grad_()
        with torch.autocast(x.device.type, enabled=False):
            return x, self.score(x)

    def score(self, x: Tensor) -> Tensor:
        """Run the discriminator on other images, one for each label; BatchNorm's running statistics stay as they are.

        Args:
            x: Images ``(N, C, H, W)``.

        Returns:
            Logits ``(N,)``.
        """
        with in_mode(self.discriminator, "batch_stats" if self.discriminator.training else "eval"), torch.enable_grad():
            logits: Tensor = self.discriminator(x) if self.y is None else self.discriminator(x, self.y)
        return logits.flatten()


class CriticPenalty(Weighted, ABC):
    """Soft regularisation of a discriminator by images, ``penalty(discriminator, real, fake, y) -> scalar``.

    In ``GAN(critic_penalties=...)`` it takes the images that the discriminator is shown, after noise and augmentation,
    and the logits of the step, so that none is computed twice. Called by itself it runs the passes that it needs.

    Attributes:
        per_sample: Whether it differentiates the logit of each image by itself, which BatchNorm makes ill-posed.
        differentiates: The images of the step that it differentiates by: "real", "fake", or None.
    """

    per_sample: ClassVar[bool] = False
    differentiates: ClassVar[Which | None] = None

    def __call__(
        self,
        discriminator: nn.Module,
        real: Tensor,
        fake: Tensor,
        y: Tensor | None = None,
        *,
        epoch: float = math.inf,
        step: int = 0,
    ) -> Tensor:
        """Give the penalty, a scalar on the discriminator's device.

        Args:
            discriminator: From images, and labels where ``y`` is given, to logits ``(N,)``.
            real: Real images ``(N, C, H, W)``.
            fake: Generated images of the same shape.
            y: The labels ``(N,)`` of both, int64, or None.
            epoch: The epoch whose coefficient counts.
            step: The number of discriminator steps before this one, for penalties that skip some.
        """
        factor = self.factor(step)
        if factor == 0:
            return real.new_zeros(())
        return factor * self.weigh(self.terms(CriticPass(discriminator, real, fake.detach(), y)), epoch).value

    def factor(self, step: int) -> float:
        """Give what the penalty is multiplied by in a step: 0 where it is skipped, more where it stands for others.

        Args:
            step: The number of discriminator steps before it.
        """
        return 1.0

    @abstractmethod
    def terms(self, critic_pass: CriticPass) -> tuple[Tensor, ...]:
        """Give the raw terms of a step, scalars, one for each coefficient."""


AnyCriticPenalty: TypeAlias = CriticPenalty | Callable[..., Tensor]
"""A critic penalty of this library, or a function from discriminator, real and generated images and labels."""
