"""Signs that a network hides its gradients, so that its robust accuracy is not to be believed."""

import dataclasses
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_advreg.attacks import (
    APGD,
    PGD,
    Acceleration,
    Alone,
    Attack,
    AutoAttack,
    LossName,
    Model,
    Norm,
    Outcome,
    Square,
    attack_in_stages,
    borrowed,
    device_of,
    logit_variation,
    seeded,
)
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.checks import check_types
from lightning_advreg.evaluation import flags
from lightning_advreg.evaluation.flags import Flag

PGD_STEPS = 20
"""Shorter runs of PGD fall behind AutoAttack on honest networks too."""

_IMAGES = 256
_BATCH = 64
# of probabilities in half precision
_ROUNDING = 1e-2


def masking_flags(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    eps: float,
    max_images: int = _IMAGES,
    seed: int | None = 0,
    batch_size: int | None = None,
    progress: bool = False,
    checkpoint: str | PathLike[str] | None = None,
    acceleration: Acceleration | None = Acceleration(),
    ranks: Alone | None = None,
) -> tuple[Flag, ...]:
    """Look for the signs of gradient masking that Athalye et al. (2018, section 3.1) and Carlini et al. (2019) name.

    ``random_logits``
        Logits that vary by more than 1e-4 between two passes over the same images: gradients of one draw miss the
        others.
    ``softmax_outputs``
        Outputs that are probabilities: the gradient of the cross-entropy of a softmax of a softmax is small.
    ``zero_gradients``
        An input gradient that is exactly zero, or no gradients at all: gradient attacks stand still there.
    ``black_box``
        A search without gradients (Square, 1,000 queries) that leaves less accuracy than attacks that follow gradients
        (APGD on the cross-entropy and the DLR loss, then APGD-T, 50 steps each), by more than 0.2 points and more than
        chance explains. On MNIST at Linf 0.3 it finds a few images more on honestly trained networks too.
    ``unlimited_eps``
        More than 1 % of images that withstand APGD when every pixel may take any value, though the network gives other
        images another class.

    The last two are attacks, and are left out where there are no gradients to follow, and where logits vary: a search
    with many queries wins by luck there.

    Args:
        model: From images in [0, 1] to logits; it is left as it was found.
        x: Images in [0, 1], of shape ``(N, C, H, W)``.
        y: Labels, integers of shape ``(N,)``.
        norm: The norm of the budget.
        eps: The budget in pixel units, above 0.
        max_images: Look at the first so many images.
        seed: Of the random numbers; None draws from the default generators.
        batch_size: Images attacked at once; None chooses what fits the memory.
        progress: Show a bar for each attack.
        checkpoint: A folder where progress is saved, and from which the same call continues.
        acceleration: How the network is made fast for the attacks.
        ranks: The processes that share the attacks.

    Returns:
        The signs found; none is no proof that there is no masking.

    Raises:
        TypeError: If ``x`` is not floating point or ``y`` is not integer.
        ValueError: If ``eps`` or ``max_images`` is not above 0, or pixels or labels are out of range.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.Softmax(dim=1))
        >>> x = torch.rand(8, 1, 2, 2)
        >>> [flag.name for flag in masking_flags(network, x, network(x).argmax(1), norm="linf", eps=0.1)]
        ['softmax_outputs']
    """
    check_types(x, y)
    if eps <= 0 or max_images < 1:
        raise ValueError(f"eps must be above 0 and max_images 1 or more, got {eps} and {max_images}.")
    x, y = x[:max_images], y[:max_images]
    ranks = Alone() if ranks is None else ranks
    with borrowed(model), seeded(seed, device_of(model, x)):
        # one process decides: unlike ones might disagree on what to attack, and wait for each other for ever
        seen = ranks.gather(_look(model, x, y))[0]
    random = flags.random_logits(seen.variation)
    found = [random, flags.softmax_outputs(seen.probabilities)]
    if seen.zero is None:
        found.append(flags.no_gradients())
    else:
        found.append(flags.zero_gradients(*seen.zero, len(x)))

    def attacked(stages: Mapping[str, Attack], folder: str) -> Outcome:
        return attack_in_stages(
            model,
            x,
            y,
            stages,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            checkpoint=None if checkpoint is None else Path(checkpoint, folder),
            acceleration=acceleration,
            ranks=ranks,
        )

    if seen.zero is not None and random is None:
        white = attacked(_following_gradients(norm, eps, seen.num_classes), "gradients").robust
        black = attacked({"square": Square(norm=norm, eps=eps, queries=1000, seed=None)}, "no_gradients").robust
        found.append(flags.black_box(int(white.sum()), int(black.sum()), int((white & black).sum()), len(x)))
        if seen.predicted > 1:
            left = attacked(_growing(norm, eps, x[0].numel()), "growing").robust
            found.append(flags.unlimited_eps(int(left.sum()), len(x)))
    return tuple(flag for flag in found if flag is not None)


def gap_flags(attacks: Mapping[str, tuple[Attack, float]]) -> tuple[Flag, ...]:
    """Compare PGD of 20 steps or more with AutoAttack, where both were run in one norm at one budget.

    Args:
        attacks: Attacks and the accuracy in [0, 1] that each left, by name.

    Returns:
        A flag for each pair in which PGD leaves over 8 points more.

    Example:
        >>> [flag.value for flag in gap_flags({"pgd": (PGD(steps=50), 0.6), "aa": (AutoAttack(), 0.5)})]
        [0.1]
    """
    found = []
    for reference, (auto, left) in attacks.items():
        for name, (pgd, accuracy) in attacks.items():
            if not isinstance(auto, AutoAttack) or not isinstance(pgd, PGD) or pgd.steps < PGD_STEPS:
                continue
            if auto.norm == pgd.norm and abs(auto.radius - pgd.radius) < 1e-9:
                found.append(flags.pgd_gap((name, accuracy), (reference, left)))
    return tuple(flag for flag in found if flag is not None)


class _Seen(NamedTuple):
    """What a network shows without an attack.

    Attributes:
        num_classes: How many outputs it has.
        predicted: How many classes it predicts.
        probabilities: The share of images whose outputs are probabilities.
        variation: By how much logits differ between two passes.
        zero: For how many images the input gradient of the cross-entropy is zero, and for how many that of the margin
            too; None if there are no gradients.
    """

    num_classes: int
    predicted: int
    probabilities: float
    variation: float
    zero: tuple[int, int] | None


def _look(model: Model, x: Tensor, y: Tensor) -> _Seen:
    device = device_of(model, x)
    outputs: list[Tensor] = []
    zero: tuple[int, int] | None = (0, 0)
    for images, labels in zip(x.split(_BATCH), y.split(_BATCH), strict=True):
        # copies made here are no inference tensors, which autograd could not save
        leaf = images.detach().to(device, copy=True).requires_grad_()
        labels = labels.to(device, torch.int64, copy=True)
        losses = [InnerObjective(model, leaf.detach(), labels, loss=loss) for loss in ("ce", "margin")]
        logits = losses[0].logits(leaf)
        still = [_without_gradient(objective.loss(logits).sum(), leaf) for objective in losses]
        if still[0] is None or still[1] is None:
            zero = None
        elif zero is not None:
            zero = (zero[0] + int(still[0].sum()), zero[1] + int((still[0] & still[1]).sum()))
        outputs.append(logits.detach())
    logits = torch.cat(outputs)
    probabilities = ((logits.sum(1) - 1).abs() <= _ROUNDING) & (logits >= 0).all(1)
    return _Seen(
        num_classes=logits.shape[1],
        predicted=len(logits.argmax(1).unique()),
        probabilities=int(probabilities.sum()) / len(x),
        variation=logit_variation(model, x[:_BATCH]),
        zero=zero,
    )


def _without_gradient(value: Tensor, leaf: Tensor) -> Tensor | None:
    """Tell for which images the gradient of a value is exactly zero; None if there is no gradient at all."""
    if not value.requires_grad:
        return None
    grad = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)[0]
    return None if grad is None else (grad == 0).flatten(1).all(1)


def _following_gradients(norm: Norm, eps: float, num_classes: int) -> dict[str, Attack]:
    apgd = APGD(norm=norm, eps=eps, steps=50, seed=None)
    dlr: LossName = "dlr" if num_classes > 2 else "margin"
    towards: LossName = "dlr" if num_classes > 3 else "margin"
    return {
        "apgd-ce": apgd,
        "apgd-dlr": dataclasses.replace(apgd, loss=dlr),
        "apgd-t": dataclasses.replace(apgd, loss=towards, targets=min(9, num_classes - 1)),
    }


def _growing(norm: Norm, eps: float, pixels: int) -> dict[str, Attack]:
    """Give attacks whose budget doubles, until the ball holds the whole box."""
    limit = {"linf": 1.0, "l2": pixels**0.5, "l1": float(pixels)}[norm]
    sizes = [min(2 * eps, limit)]
    while sizes[-1] < limit:
        sizes.append(min(2 * sizes[-1], limit))
    return {f"eps={size:.6g}": APGD(norm=norm, eps=size, steps=50, seed=None) for size in sizes}
