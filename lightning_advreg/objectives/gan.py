"""Losses of generator and discriminator, on logits.

Each is written with ``softplus``, which stays finite where a sigmoid followed by a logarithm gives infinity. Below,
``D(x)`` is the discriminator's logit.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


class GANLoss(ABC):
    """What discriminator and generator minimise, from logits of shape ``(N,)`` to scalars."""

    @abstractmethod
    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Give the discriminator's loss from its logits of real and of generated images."""

    @abstractmethod
    def generator(self, fake: Tensor) -> Tensor:
        """Give the generator's loss from the logits of generated images."""


@dataclass(frozen=True)
class NonSaturating(GANLoss):
    """The non-saturating loss (Goodfellow et al. 2014, section 3).

    Discriminator: ``-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))``; generator: ``-log sigmoid(D(G(z)))``, whose
    gradient does not vanish while the discriminator is winning.

    Example:
        >>> import torch
        >>> NonSaturating().generator(torch.zeros(3)).item()  # log 2
        0.6931471824645996
    """

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Give ``E softplus(-D(x)) + E softplus(D(G(z)))``."""
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator(self, fake: Tensor) -> Tensor:
        """Give ``E softplus(-D(G(z)))``."""
        return F.softplus(-fake).mean()


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

    def generator(self, fake: Tensor) -> Tensor:
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

    def generator(self, fake: Tensor) -> Tensor:
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

    def generator(self, fake: Tensor) -> Tensor:
        """Give ``-E D(G(z))``."""
        return -fake.mean()
