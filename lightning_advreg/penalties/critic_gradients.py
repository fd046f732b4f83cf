"""Soft limits on the gradient of a discriminator by its images."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.penalties.base import Coefficient, as_coefficient
from lightning_advreg.penalties.critic import CriticPass, CriticPenalty
from lightning_advreg.values import Number, to_float

_EPS = 1e-12
"""Added to squared norms before the root, whose slope at 0 is infinite."""


@dataclass(frozen=True)
class _WeightedGradient(CriticPenalty):
    per_sample = True

    weight: Coefficient = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", as_coefficient(self.weight, "weight"))


@dataclass(frozen=True)
class GradientPenalty(_WeightedGradient):
    """The gradient penalty of WGAN-GP, ``weight * E (||grad D(u x + (1 - u) G(z))||_2 - 1)^2``.

    Gulrajani et al. (2017, eq. 3). ``u`` is uniform in [0, 1], one number for each pair of a real and a generated
    image; the norm is that of each image's whole gradient. It costs a forward pass, and its gradient a double backward.

    Args:
        weight: The coefficient, at least 0; a number or a schedule. 10 in the paper.

    Raises:
        ValueError: If ``weight`` is negative; when called, if there are not as many generated as real images.

    Example:
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
        >>> _ = torch.nn.init.constant_(critic[1].weight, 1.0)  # a gradient of norm 2 everywhere
        >>> x = torch.rand(3, 1, 2, 2)
        >>> round(GradientPenalty(10.0)(critic, x, x).item(), 4)
        10.0
    """

    def terms(self, critic_pass: CriticPass) -> tuple[Tensor, ...]:
        """Give the mean of ``(||grad|| - 1)^2``."""
        return (_unit_norms(critic_pass, _between(critic_pass)),)


@dataclass(frozen=True)
class ZeroCenteredGradientPenalty(_WeightedGradient):
    """The zero-centred gradient penalty ``weight * E ||grad D(u x + (1 - u) G(z))||_2^2``.

    0-GP of Thanh-Tung et al. (2019). As ``GradientPenalty``, but gradients are pulled to 0, which they are
    where real and generated images agree; so that training can come to rest there.

    Args:
        weight: The coefficient, at least 0; a number or a schedule.

    Raises:
        ValueError: If ``weight`` is negative; when called, if there are not as many generated as real images.

    Example:
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
        >>> _ = torch.nn.init.constant_(critic[1].weight, 1.0)  # a gradient of norm 2 everywhere
        >>> x = torch.rand(3, 1, 2, 2)
        >>> round(ZeroCenteredGradientPenalty(10.0)(critic, x, x).item(), 4)
        40.0
    """

    def terms(self, critic_pass: CriticPass) -> tuple[Tensor, ...]:
        """Give the mean of ``||grad||^2``."""
        return (_squares(critic_pass, _between(critic_pass)).mean(),)


@dataclass(frozen=True)
class DRAGAN(_WeightedGradient):
    """The gradient penalty around real images, ``weight * E (||grad D(x + d)||_2 - 1)^2``.

    Kodali et al. (2017): ``d`` is Gaussian, so that images are moved to either side alike; its standard
    deviation is ``noise`` times that of the batch's pixels. Adding uniform noise in [0, 1], as widely copied, would
    only brighten images.

    Args:
        weight: The coefficient, at least 0; a number or a schedule. 10 in the paper.
        noise: The standard deviation of the noise, in standard deviations of the batch's pixels, at least 0.

    Raises:
        ValueError: If ``weight`` or ``noise`` is negative.

    Example:
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
        >>> _ = torch.nn.init.constant_(critic[1].weight, 1.0)  # a gradient of norm 2 everywhere
        >>> x = torch.rand(3, 1, 2, 2)
        >>> round(DRAGAN(10.0)(critic, x, x).item(), 4)
        10.0
    """

    _: KW_ONLY
    noise: Number = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "noise", to_float(self.noise, "noise", minimum=0))

    def terms(self, critic_pass: CriticPass) -> tuple[Tensor, ...]:
        """Give the mean of ``(||grad|| - 1)^2``."""
        x = critic_pass.real.detach()
        moved = x + to_float(self.noise, "noise") * x.std(correction=0) * torch.randn_like(x)
        return (_unit_norms(critic_pass, moved),)


@dataclass(frozen=True)
class _AtImages(CriticPenalty):
    per_sample = True
    coefficients = ("gamma",)

    gamma: Coefficient = 10.0
    _: KW_ONLY
    every: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", as_coefficient(self.gamma, "gamma"))
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"every must be an integer of at least 1, a number of steps, got {self.every!r}.")

    def factor(self, step: int) -> float:
        """Give ``every`` in every so many steps, the first among them, and 0 in the others."""
        return float(self.every) if step % self.every == 0 else 0.0

    def terms(self, critic_pass: CriticPass) -> tuple[Tensor, ...]:
        """Give half the mean of ``||grad||^2``."""
        assert self.differentiates is not None
        x, logits = critic_pass.differentiable(self.differentiates)
        return (_squared_norms(logits, x).mean() / 2,)


@dataclass(frozen=True)
class R1(_AtImages):
    """The gradient penalty at real images, ``gamma / 2 * E ||grad D(x)||_2^2``.

    Mescheder et al. (2018, eq. 9). It takes the forward pass that the discriminator's loss has anyway; under autocast
    it needs one of its own, in float32.

    Lazily (Karras et al. 2020, StyleGAN2, appendix B), with ``every`` above 1, it is computed in every so many
    discriminator steps and multiplied by ``every``. Adam then sees a mixture of small and large gradients; with
    ``c = every / (every + 1)``, give the discriminator's optimizer the learning rate ``c * lr`` and the decays
    ``betas = (beta1 ** c, beta2 ** c)`` in place of ``lr`` and ``(beta1, beta2)``: for ``every=16`` and the default
    ``(0.5, 0.999)``, ``(0.521, 0.99906)``.

    Args:
        gamma: The coefficient, at least 0; a number or a schedule. 10 in the paper; it grows with the number of pixels.
        every: Discriminator steps from one computation to the next, at least 1.

    Raises:
        ValueError: If ``gamma`` is negative or ``every`` less than 1.

    Example:
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
        >>> _ = torch.nn.init.constant_(critic[1].weight, 1.0)  # a gradient of norm 2 everywhere
        >>> x = torch.rand(3, 1, 2, 2)
        >>> [R1(10.0, every=16)(critic, x, x, step=step).item() for step in (0, 1, 16)]
        [320.0, 0.0, 320.0]
    """

    differentiates = "real"


@dataclass(frozen=True)
class R2(_AtImages):
    """The gradient penalty at generated images, ``gamma / 2 * E ||grad D(G(z))||_2^2``.

    Mescheder et al. (2018, eq. 10); otherwise as ``R1``, with which it goes well together (Huang et al. 2024).

    Args:
        gamma: The coefficient, at least 0; a number or a schedule.
        every: Discriminator steps from one computation to the next, at least 1.

    Raises:
        ValueError: If ``gamma`` is negative or ``every`` less than 1.

    Example:
        >>> critic = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
        >>> _ = torch.nn.init.constant_(critic[1].weight, 1.0)  # a gradient of norm 2 everywhere
        >>> x = torch.rand(3, 1, 2, 2)
        >>> R2("1/2")(critic, x, x).item()
        1.0
    """

    differentiates = "fake"


def _between(critic_pass: CriticPass) -> Tensor:
    """Give a point between each real and a generated image, with one random number for each pair."""
    real, fake = critic_pass.real.detach(), critic_pass.fake.detach()
    if real.shape != fake.shape:
        raise ValueError(
            f"a penalty between images needs a generated image for each real one, got shapes {tuple(real.shape)} and "
            f"{tuple(fake.shape)}; generate as many as the batch has."
        )
    u = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device, dtype=real.dtype)
    return u * real + (1 - u) * fake


def _unit_norms(critic_pass: CriticPass, x: Tensor) -> Tensor:
    """Give the mean of ``(||grad|| - 1)^2`` of the discriminator's gradients at images."""
    return ((_squares(critic_pass, x) + _EPS).sqrt() - 1).square().mean()


def _squares(critic_pass: CriticPass, x: Tensor) -> Tensor:
    """Give the squared norms ``(N,)`` of the discriminator's gradients at images, with a pass outside of autocast."""
    x = working_precision(x).requires_grad_()
    with torch.autocast(x.device.type, enabled=False):
        return _squared_norms(critic_pass.score(x), x)


def _squared_norms(logits: Tensor, x: Tensor) -> Tensor:
    with torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        # the sum: each logit depends on its own image alone
        (gradient,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
        squares: Tensor = gradient.flatten(1).square().sum(1)
    return squares
