"""Rules that tell from numbers alone that a training goes wrong, and what to do about it."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_advreg.callbacks.convergence_look import Look, Outcomes, accuracy

CATASTROPHIC = "catastrophic_overfitting"
ROBUST = "robust_overfitting"
PLATEAU = "start_plateau"
NON_FINITE = "non_finite_loss"
UNSCHEDULED = "unscheduled_group"

GAP = 0.20
"""By how much the accuracy under FGSM may exceed that under PGD-10: 18.7 points at most in healthy published runs."""

DROP = 0.10
"""By how much the accuracy under PGD-10 may fall in one epoch: 7.9 points at most in healthy published runs."""

DECLINE = 0.02
"""By how much the accuracy under PGD-10 may stay below its best."""

DECLINE_EPOCHS = 5
"""For so many epochs."""

PLATEAU_WIDTH = 0.01
"""How near to ln K the loss of a network lies that has learnt nothing."""

STANDARD_ERRORS = 3.0
"""A difference of so many standard errors is beyond the noise of a small sample."""


@dataclass(frozen=True)
class Alarm:
    """One convergence problem that was found.

    Attributes:
        name: ``catastrophic_overfitting``, ``robust_overfitting``, ``start_plateau``, ``non_finite_loss``,
            ``unscheduled_group``, or the name of a sign of gradient masking: ``random_logits``, ``softmax_outputs`` or
            ``zero_gradients``; for GANs those of ``gan_rules``.
        epoch: The epoch in which it was found, from 0.
        step: ``trainer.global_step`` at that time.
        message: What was measured, what it means, and what to do.
    """

    name: str
    epoch: int
    step: int
    message: str


def catastrophic_overfitting(history: Sequence[Look], *, judge_from: float = 0.0) -> Alarm | None:
    """Judge whether the last look shows a network that withstands single steps alone (Wong et al. 2020, section 5.4).

    The alarm: FGSM leaves over 20 points more than PGD-10, or the accuracy under PGD-10 has fallen by over 10 points
    within one epoch. Together they catch 21 of 21 collapses in 126 published runs, and no healthy run. On few images
    such a difference must also be 3 standard errors long, as if the two accuracies came from different images.

    Args:
        history: Looks in the order of time, at the same budget.
        judge_from: Judge no look before so many epochs of training, in which the training budget still grew.
    """
    now = history[-1]
    if now.trained <= judge_from and judge_from > 0:
        return None
    remedy = (
        "Go back to the last good epoch and train with N-FGSM, GradAlign or PGD of 2 steps, as "
        "ConvergenceMonitor(action=['rollback', 'nfgsm']) does."
    )
    fgsm, pgd, images = accuracy(now.fgsm), accuracy(now.pgd), len(now.pgd)
    if _lead(now.fgsm, now.pgd) > max(GAP, _noise(now.fgsm, now.pgd)):
        return Alarm(
            CATASTROPHIC,
            now.epoch,
            now.step,
            f"Epoch {now.epoch}: FGSM leaves an accuracy of {100 * fgsm:.1f} %, PGD-10 {100 * pgd:.1f} % on {images} "
            f"images, a gap of {100 * (fgsm - pgd):.1f} points (more than {100 * GAP:.0f}): catastrophic overfitting, "
            f"the network has learnt to withstand single steps alone. {remedy}",
        )
    # rounding of fractions of an epoch must not lose the look exactly one epoch earlier
    recent = [look for look in history[:-1] if max(judge_from, now.trained - 1) - 1e-6 <= look.trained < now.trained]
    before = max(recent, key=lambda look: accuracy(look.pgd), default=None)
    if before is None or _lead(before.pgd, now.pgd) <= max(DROP, _noise(before.pgd, now.pgd)):
        return None
    return Alarm(
        CATASTROPHIC,
        now.epoch,
        now.step,
        f"Epoch {now.epoch}: the accuracy under PGD-10 fell from {100 * accuracy(before.pgd):.1f} % to "
        f"{100 * pgd:.1f} % on {images} images within an epoch, by {100 * (accuracy(before.pgd) - pgd):.1f} points "
        f"(more than {100 * DROP:.0f}): catastrophic overfitting. {remedy}",
    )


def robust_overfitting(history: Sequence[Look]) -> Alarm | None:
    """Judge whether robust accuracy falls on new images while it rises on training images (Rice et al. 2020).

    The alarm: for 5 epochs the accuracy under PGD-10 has been over 2 points below its best before them, while that on
    training images is higher than at the best. On few images both differences, of the mean over these looks to the
    best, must also be 3 standard errors long. The looks see the same images, so the error is that of the differences
    image by image; where later looks were on fewer images, only these count, and where earlier ones were, those looks
    do not.

    Args:
        history: Looks in the order of time.
    """
    now = history[-1]
    # the last look of those that lie 4 epochs back stands for the first of the 5 epochs
    start = sum(look.trained <= now.trained - (DECLINE_EPOCHS - 1) + 1e-6 for look in history) - 1
    if start < 1:
        return None
    images = min(len(look.pgd) for look in history[start:])
    # the same images at all times, which looks on fewer of them cannot tell about
    seen = [dataclasses.replace(look, pgd=look.pgd[:images]) for look in history if len(look.pgd) >= images]
    last = seen[start - len(history) :]
    best = max(seen[: -len(last)], key=lambda look: accuracy(look.pgd), default=None)
    if best is None or any(_lead(best.pgd, look.pgd) <= DECLINE for look in last):
        return None
    fall, fall_noise = _paired(best.pgd, [look.pgd for look in last])
    rise, rise_noise = _paired(best.train_pgd, [look.train_pgd for look in last])
    if fall <= fall_noise or -rise <= rise_noise:
        return None
    before, after = accuracy(best.train_pgd[: len(now.train_pgd)]), accuracy(now.train_pgd)
    return Alarm(
        ROBUST,
        now.epoch,
        now.step,
        f"Epoch {now.epoch}: the accuracy under PGD-10 is {100 * accuracy(last[-1].pgd):.1f} % on {images} images, "
        f"after {100 * accuracy(best.pgd):.1f} % in epoch {best.epoch}, and has been over {100 * DECLINE:.0f} points "
        f"below that for {DECLINE_EPOCHS} epochs, while it went from {100 * before:.1f} % to {100 * after:.1f} % on "
        f"training images: robust overfitting. Keep the checkpoint of epoch {best.epoch}, and train with AWP, an "
        "average of the weights (EMA), stronger augmentation, or fewer epochs.",
    )


def start_plateau(
    epoch: int, step: int, *, trained: float, loss: float, right: int, images: int, num_classes: int
) -> Alarm | None:
    """Judge whether a network has learnt nothing: its outputs are uniform after an epoch.

    The alarm: the cross-entropy lies within 0.01 of ln K, that of uniform outputs, and the accuracy within 3 standard
    errors of 1/K.

    Args:
        epoch: The epoch, from 0.
        step: The step.
        trained: How many epochs of training lie behind.
        loss: The mean cross-entropy of clean images.
        right: How many of them the network gets right.
        images: How many there are.
        num_classes: How many classes K there are.
    """
    chance, level = 1 / num_classes, math.log(num_classes)
    room = STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / images)
    if trained < 1 - 1e-6 or abs(loss - level) >= PLATEAU_WIDTH or abs(right / images - chance) > room:
        return None
    return Alarm(
        PLATEAU,
        epoch,
        step,
        f"Epoch {epoch}: the cross-entropy is {loss:.4f}, that of uniform outputs over {num_classes} classes (ln "
        f"{num_classes} = {level:.4f}), and the accuracy {100 * right / images:.1f} % on {images} images is that of "
        "guessing: training has not left its starting plateau. Let the budget grow over the first epochs "
        "(eps_warmup_epochs), and lower the learning rate: Adam with 1e-4 trains on MNIST at Linf 0.3.",
    )


def non_finite_loss(epoch: int, step: int, *, batch: int, seen: int, rank: int | None = None) -> Alarm:
    """Say that a loss was not finite.

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
        f"Epoch {epoch}: the loss of batch {batch}{where} was infinite or not a number, the first such one (seen after "
        f"batch {seen - 1}, at step {step}). Stop, go back to a checkpoint from before that batch, and lower the "
        "learning rate or clip gradients; look at that batch for broken images.",
    )


def non_finite_outputs(epoch: int, step: int) -> Alarm:
    """Say that the network gives outputs that are not finite, though no loss of training was seen to be so."""
    return Alarm(
        NON_FINITE,
        epoch,
        step,
        f"Epoch {epoch}: the network's outputs for monitored images are infinite or not numbers, at step {step}. Stop, "
        "go back to an earlier checkpoint, and lower the learning rate or clip gradients.",
    )


def gradient_masking(epoch: int, step: int, sign: str, message: str) -> Alarm:
    """Say which sign of gradient masking was found; its name becomes that of the alarm."""
    return Alarm(sign, epoch, step, f"Epoch {epoch}: sign of gradient masking ({sign}): {message}")


def unscheduled_groups(rates: Sequence[Sequence[float]]) -> list[int]:
    """Give the parameter groups whose learning rate stayed the same while that of others changed.

    Groups of learning rate 0 are frozen on purpose.

    Args:
        rates: Learning rates of all groups, by time; later entries may be longer, where groups were added.

    Example:
        >>> unscheduled_groups([[0.1, 0.1], [0.05, 0.1]]), unscheduled_groups([[0.1, 0.1], [0.1, 0.1]])
        ([1], [])
    """
    count = min((len(row) for row in rates[-1:]), default=0)
    courses = [[row[group] for row in rates if group < len(row)] for group in range(count)]
    still = [group for group, course in enumerate(courses) if len(set(course)) == 1 and course[0] != 0]
    # a group that joined late has missed nothing until the others move again
    return [group for group in still if any(len(set(course[-len(courses[group]) :])) > 1 for course in courses)]


def unscheduled_group(epoch: int, step: int, names: Sequence[str]) -> Alarm:
    """Say which parameter groups have no schedule."""
    many = len(names) > 1
    return Alarm(
        UNSCHEDULED,
        epoch,
        step,
        f"Epoch {epoch}: the schedule has moved learning rates, but never {'those' if many else 'that'} of "
        f"{' and '.join(names)}. Build the scheduler after the last parameter group was added, and give every "
        "optimizer one.",
    )


def _lead(first: Outcomes, second: Outcomes) -> float:
    # rounded, so that 50 % and 48 % are 2 points apart and not more
    return round(accuracy(first) - accuracy(second), 9)


def _noise(first: Outcomes, second: Outcomes) -> float:
    variance = 0.0
    for outcomes in (first, second):
        # two more images right and two wrong (Agresti and Coull 1998): 16 of 16 are not certainty
        rate = (sum(outcomes) + 2) / (len(outcomes) + 4)
        variance += rate * (1 - rate) / len(outcomes)
    return STANDARD_ERRORS * math.sqrt(variance)


def _paired(before: Outcomes, after: Sequence[Outcomes]) -> tuple[float, float]:
    """Give by how much ``before`` exceeds the mean of ``after`` on the images that all share, and the noise of that."""
    images = min(len(before), *(len(outcomes) for outcomes in after))
    falls = [before[i] - sum(outcomes[i] for outcomes in after) / len(after) for i in range(images)]
    mean = sum(falls) / images
    variance = sum((fall - mean) ** 2 for fall in falls) / images
    return mean, STANDARD_ERRORS * math.sqrt(variance / images)
