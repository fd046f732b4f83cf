"""Losses of generator and discriminator, on logits.

Each is written with ``softplus``, which stays finite where a sigmoid followed by a logarithm gives infinity. Below,
``D(x)`` is the discriminator's logit.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from lightning_advreg.values import Number, to_float


class GANLoss(ABC):
    """What discriminator and generator minimise, from logits of shape ``(N,)`` to scalars.

    Attributes:
        needs_real: Whether the generator's loss needs logits of real images too. ``GAN`` then scores the batch of real
            images again in the generator's step, without gradients; other losses do not pay for that.
    """

    needs_real: ClassVar[bool] = False

    @abstractmethod
    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Give the discriminator's loss from its logits of real and of generated images."""

    @abstractmethod
    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Give the generator's loss from the logits of generated images, and of real ones where it ``needs_real``."""


@dataclass(frozen=True, kw_only=True)
class _CrossEntropy(GANLoss):
    real_label: Number = 1.0

    def __post_init__(self) -> None:
        label = to_float(self.real_label, "real_label", maximum=1)
        if label <= 0.5:
            raise ValueError(
                f"real_label must be more than 0.5, got {self.real_label!r}; below, real images would pass for "
                "generated ones. Salimans et al. take 0.9."
            )
        object.__setattr__(self, "real_label", label)

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Give ``E [softplus(-D(x)) + (1 - real_label) D(x)] + E softplus(D(G(z)))``."""
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        label = to_float(self.real_label, "real_label")
        # cross-entropy with target t: t softplus(-d) + (1 - t) softplus(d), where softplus(d) = softplus(-d) + d
        return loss if label == 1 else loss + (1 - label) * real.mean()


@dataclass(frozen=True, kw_only=True)
class NonSaturating(_CrossEntropy):
    """The non-saturating loss (Goodfellow et al. 2014, section 3).

    Discriminator: ``-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))``; generator: ``-log sigmoid(D(G(z)))``, whose
    gradient does not vanish while the discriminator is winning.

    Args:
        real_label: The discriminator's target for real images, in (0.5, 1]. Below 1 it is one-sided label smoothing
            (Salimans et al. 2016, section 3.4, with 0.9): the target of generated images stays 0, and the
            generator's loss is as ever.

    Raises:
        ValueError: If ``real_label`` is out of its range.

    Example:
        >>> import torch
        >>> NonSaturating().generator(torch.zeros(3)).item()  # log 2
        0.6931471824645996
    """

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Give ``E softplus(-D(G(z)))``."""
        return F.softplus(-fake).mean()


@dataclass(frozen=True, kw_only=True)
class Saturating(_CrossEntropy):
    """The minimax loss (Goodfellow et al. 2014, eq. 1): the generator minimises what the discriminator maximises.

    Generator: ``log(1 - sigmoid(D(G(z))))``. Its gradient vanishes while the discriminator is winning, which is what
    ``NonSaturating`` is for; this one is the game of the theory.

    Args:
        real_label: The discriminator's target for real images, in (0.5, 1], as in ``NonSaturating``.

    Raises:
        ValueError: If ``real_label`` is out of its range.

    Example:
        >>> import torch
        >>> Saturating().generator(torch.zeros(3)).item()  # log 1/2
        -0.6931471824645996
    """

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Give ``-E softplus(D(G(z)))``."""
        return -F.softplus(fake).mean()


@dataclass(frozen=True)
class RpGAN(GANLoss):
    """The relativistic paired loss (Jolicoeur-Martineau 2019, RSGAN): is a real image more real than a generated one?

    Discriminator: ``-log sigmoid(D(x) - D(G(z)))``; generator: the same with both exchanged. Each real image is
    compared with one generated image. With R1 and R2 it converges where the non-saturating loss need not (Huang et al.
    2024, R3GAN).

    Raises:
        ValueError: When called with logits of real and generated images that do not come in pairs.

    Example:
        >>> import torch
        >>> RpGAN().generator(torch.tensor([1.0]), torch.tensor([1.0])).item()  # log 2
        0.6931471824645996
    """

    needs_real = True

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Give ``E softplus(D(G(z)) - D(x))``."""
        return F.softplus(_difference(fake, real)).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Give ``E softplus(D(x) - D(G(z)))``."""
        return F.softplus(-_difference(fake, real)).mean()


@dataclass(frozen=True)
class Hinge(GANLoss):
    """The hinge loss (Lim & Ye 2017, Miyato et al. 2018, eq. 16 and 17); the generator's side has no hinge.

    Example:
        >>> import torch
        >>> Hinge().discriminator(torch.tensor([2.0]), torch.tensor([-2.0])).item()
        0.0
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Give ``E max(0, 1 - D(x)) + E max(0, 1 + D(G(z)))``."""
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Give ``-E D(G(z))``."""
        return -fake.mean()


@dataclass(frozen=True)
class LSGAN(GANLoss):
    """The least-squares loss with targets 1 for real and 0 for generated (Mao et al. 2017, eq. 9).

    Example:
        >>> import torch
        >>> LSGAN().generator(torch.tensor([0.0])).item()
        0.5
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Give ``E (D(x) - 1)^2 / 2 + E D(G(z))^2 / 2``."""
        return 0.5 * (real - 1).square().mean() + 0.5 * fake.square().mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Give ``E (D(G(z)) - 1)^2 / 2``."""
        return 0.5 * (fake - 1).square().mean()


@dataclass(frozen=True)
class WGAN(GANLoss):
    """The Wasserstein critic's loss (Arjovsky et al. 2017, eq. 3); the critic needs a Lipschitz limit.

    Give the discriminator a constraint such as ``WeightClip(0.01)`` along with it.

    Example:
        >>> import torch
        >>> WGAN().discriminator(torch.tensor([2.0]), torch.tensor([-1.0])).item()
        -3.0
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Give ``E D(G(z)) - E D(x)``."""
        return fake.mean() - real.mean()

    def generator(self, fake: Tensor, real: Tensor | None = None) -> Tensor:
        """Give ``-E D(G(z))``."""
        return -fake.mean()


def _difference(fake: Tensor, real: Tensor | None) -> Tensor:
    if real is None or real.shape != fake.shape:
        given = "none" if real is None else f"shape {tuple(real.shape)}"
        raise ValueError(
            f"RpGAN compares each generated image with a real one: it needs real logits of shape {tuple(fake.shape)}, "
            f"got {given}; give discriminator and generator the logits of as many real images."
        )
    return fake - real
