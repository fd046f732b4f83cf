"""Rules that tell from numbers alone that a GAN goes wrong, and what to do about it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lightning_advreg.callbacks.convergence_rules import NON_FINITE, Alarm

COLLAPSE = "mode_collapse"
OVERPOWERED = "discriminator_overpowering"
VANISHING = "vanishing_generator_gradient"

PATIENCE = 4
"""So many looks in a row must show the same."""

DIVERSITY = 0.25
"""The distance of samples to their nearest, in that of real images, below which they are a few images over and over.

In healthy runs on digits it was never below 0.58, in a collapsing one at most 0.33; some that collapse in part stay at
0.4 to 0.6, and raise no alarm."""

APART = 0.99
"""The share of pairs, a real and a generated image, that the discriminator of a hopeless generator tells apart."""

WON_LOSS = 0.05
"""A discriminator's loss below which nothing is left for it to learn, of losses whose least value is 0."""

EARLY = 5
"""So many first looks say how long the generator's gradient was in the beginning."""

VANISHED = 0.02
"""The length of the generator's gradient, in that of the beginning, below which it no longer learns."""


@dataclass(frozen=True, kw_only=True)
class GANLook:
    """What one look at a GAN in training found.

    Attributes:
        epoch: The epoch in which it was, from 0.
        step: ``trainer.global_step`` at that time.
        judged: Whether the generator has trained long enough for its samples to be judged.
        diversity: The mean distance of a sample to the one nearest to it, in that of real images; of one class where
            there are labels.
        apart: In which share of pairs the real image has a larger logit than the generated one.
        gradient: The median norm of the generator's gradient since the last look.
        d_loss: The discriminator's loss of the last batch; nan where it is not logged.
    """

    epoch: int
    step: int
    judged: bool
    diversity: float
    apart: float
    gradient: float
    d_loss: float


def mode_collapse(looks: Sequence[GANLook]) -> Alarm | None:
    """Judge whether the generator makes a few images over and over (Salimans et al. 2016, section 3.2).

    The alarm: in 4 looks in a row the distance of samples to their nearest is below a quarter of that of real images.

    Args:
        looks: Looks in the order of time.
    """
    recent, now = looks[-PATIENCE:], looks[-1]
    if len(recent) < PATIENCE or any(not look.judged or look.diversity >= DIVERSITY for look in recent):
        return None
    return Alarm(
        COLLAPSE,
        now.epoch,
        now.step,
        f"Epoch {now.epoch}: samples are {100 * now.diversity:.0f} % as far from the nearest other sample as real "
        f"images are from theirs (less than {100 * DIVERSITY:.0f} % in {PATIENCE} looks): mode collapse. Go back to a "
        "checkpoint from before, lower the generator's learning rate, give the discriminator instance noise, R1, or "
        "several images at a time (minibatch standard deviation), and check that the generator uses its noise.",
    )


def discriminator_overpowering(looks: Sequence[GANLook], early: Sequence[float]) -> Alarm | None:
    """Judge whether the discriminator has won, and left the generator nothing to learn from (Arjovsky & Bottou 2017).

    The alarm: in 4 looks in a row it tells over 99 % of pairs apart, and either its loss is below 0.05 or the
    generator's gradient below a fiftieth of that of the beginning. The loss counts for those whose least value is 0:
    that of a Wasserstein critic is below 0 where it tells images apart.

    Args:
        looks: Looks in the order of time.
        early: The norms of the generator's gradient at the first looks.
    """
    recent, now = looks[-PATIENCE:], looks[-1]
    lost = [_vanished(look, early) or 0 <= look.d_loss < WON_LOSS for look in recent]
    if len(recent) < PATIENCE or any(look.apart <= APART for look in recent) or not all(lost):
        return None
    loss = "" if math.isnan(now.d_loss) else f" with a loss of {now.d_loss:.3g}"
    return Alarm(
        OVERPOWERED,
        now.epoch,
        now.step,
        f"Epoch {now.epoch}: the discriminator tells {100 * now.apart:.1f} % of pairs of a real and a generated image "
        f"apart{loss}, and the generator's gradient is {_length(now, early)}: the discriminator is overpowering. Lower "
        "its learning rate or its width, or hold it back with instance noise, dropout, R1, spectral norm, one-sided "
        "label smoothing or DiffAugment.",
    )


def vanishing_generator_gradient(looks: Sequence[GANLook], early: Sequence[float]) -> Alarm | None:
    """Judge whether the generator has stopped to learn, though the discriminator has not won.

    The alarm: in 4 looks in a row its gradient is below a fiftieth of that of the beginning.

    Args:
        looks: Looks in the order of time.
        early: The norms of the generator's gradient at the first looks.
    """
    recent, now = looks[-PATIENCE:], looks[-1]
    if len(recent) < PATIENCE or not all(_vanished(look, early) for look in recent):
        return None
    return Alarm(
        VANISHING,
        now.epoch,
        now.step,
        f"Epoch {now.epoch}: the generator's gradient is {_length(now, early)} (less than {100 * VANISHED:.0f} % in "
        f"{PATIENCE} looks), while the discriminator tells {100 * now.apart:.0f} % of pairs apart: the generator no "
        "longer learns. Use the non-saturating or the hinge loss, widen a weight box that is too narrow, and check "
        "that no layer of either network is stuck (dead ReLUs, a tanh at its end).",
    )


def non_finite_gan_loss(epoch: int, step: int, *, batch: int, seen: int, rank: int | None = None) -> Alarm:
    """Say that a loss of either network was not finite.

    Args:
        epoch: The epoch, from 0.
        step: The step at which it was seen.
        batch: The first such batch, counted from 0 within the epoch.
        seen: How many batches of the epoch had run when it was seen.
        rank: The process that had this batch, where there are several.
    """
    where = "" if rank is None else f" of process {rank}"
    return Alarm(
        NON_FINITE,
        epoch,
        step,
        f"Epoch {epoch}: the discriminator's or the generator's loss of batch {batch}{where} was infinite or not a "
        f"number, the first such one (seen after batch {seen - 1}, at step {step}). Go back to a checkpoint from "
        "before that batch, and lower the learning rates, clip gradients, or train in bf16 rather than fp16; look at "
        "that batch for broken images.",
    )


def non_finite_gan_weights(epoch: int, step: int, *, batch: int) -> Alarm:
    """Say that weights are not finite, though no loss was seen to be so.

    Args:
        epoch: The epoch, from 0.
        step: The step at which it was seen.
        batch: The last batch before, counted from 0 within the epoch.
    """
    return Alarm(
        NON_FINITE,
        epoch,
        step,
        f"Epoch {epoch}: weights of the generator or the discriminator are infinite or not numbers after batch "
        f"{batch}, at step {step}. Go back to an earlier checkpoint, and lower the learning rates or clip gradients.",
    )


def _vanished(look: GANLook, early: Sequence[float]) -> bool:
    return len(early) == EARLY and look.gradient < VANISHED * median(early)


def _length(look: GANLook, early: Sequence[float]) -> str:
    if len(early) < EARLY or median(early) == 0:
        return f"{look.gradient:.3g} long"
    return f"{100 * look.gradient / median(early):.3g} % of what it was in the beginning"
