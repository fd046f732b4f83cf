"""The signs of gradient masking, with what they mean and what to do about them."""

import math
from dataclasses import dataclass

VARIATION = 1e-4
"""By how much logits may differ between two passes over the same images."""

PROBABILITIES = 0.5
"""The share of images whose outputs may look like probabilities: logits do so by chance."""

BLACK_BOX_GAIN = 0.002
"""By how much the accuracy under a search without gradients may lie below that under gradient attacks."""

BLACK_BOX_CHANCE = 0.01
"""How likely such a difference may be by chance before it is taken for one."""

LEFT_WITHOUT_LIMIT = 0.01
"""Accuracy that may be left when every pixel may take every value."""

PGD_GAP = 0.08
"""By how much the accuracy under PGD may exceed that under AutoAttack."""


@dataclass(frozen=True)
class Flag:
    """One sign of gradient masking.

    Attributes:
        name: ``random_logits``, ``softmax_outputs``, ``zero_gradients``, ``black_box``, ``unlimited_eps`` or
            ``pgd_gap``.
        value: What was measured.
        threshold: What it should not exceed.
        message: What it means, and what to do.
    """

    name: str
    value: float
    threshold: float
    message: str


def random_logits(variation: float) -> Flag | None:
    """Judge by how much logits differ between two passes over the same images."""
    if not variation > VARIATION:
        return None
    message = (
        f"The logits of the same images differ by up to {variation:.2g} from one pass to the next: the network draws "
        "random numbers, and an attack on one draw misses the others. Attack the average of many draws, with "
        "AutoAttack(version='rand')."
    )
    return Flag("random_logits", variation, VARIATION, message)


def softmax_outputs(share: float) -> Flag | None:
    """Judge the share of images whose outputs are not negative and sum to 1."""
    if share <= PROBABILITIES:
        return None
    message = (
        "The outputs are not negative and sum to 1, so they are probabilities rather than logits. Attacks take a "
        "softmax themselves, and a second one makes gradients small. Attack the network without its last softmax."
    )
    return Flag("softmax_outputs", share, PROBABILITIES, message)


def no_gradients() -> Flag:
    """Say that nothing can be differentiated."""
    message = (
        "The outputs do not depend on the images through differentiable operations: there is a detach, an argmax or a "
        "no_grad inside. Gradient attacks cannot run at all. Attack a differentiable version of the network, and with "
        "Square, which needs no gradients."
    )
    return Flag("zero_gradients", 1.0, 0.0, message)


def zero_gradients(cross_entropy: int, margin: int, images: int) -> Flag | None:
    """Judge for how many images the input gradient is exactly zero.

    Args:
        cross_entropy: That of the cross-entropy.
        margin: That of the cross-entropy and of the difference between logits as well.
        images: How many images there are.
    """
    if cross_entropy == 0:
        return None
    found = f"The input gradient of the cross-entropy is exactly zero for {cross_entropy} of {images} images"
    if margin:
        message = (
            f"{found}, and for {margin} that of the difference between logits too: gradient attacks stand still there. "
            "Look for rounding, thresholds or saturated units inside. Attack a smooth version of the network, and with "
            "Square, which needs no gradients."
        )
    else:
        message = (
            f"{found}, though the logits do change with the image: they are so far apart that the probabilities are 0 "
            "and 1 in floating point. Attack with the margin or the DLR loss, as AutoAttack does."
        )
    return Flag("zero_gradients", cross_entropy / images, 0.0, message)


def black_box(white: int, black: int, both: int, images: int) -> Flag | None:
    """Judge whether a search without gradients finds more than attacks that follow them.

    Each attacked all images. That the search wins by chance is ruled out by a sign test on the images that one of them
    alone has beaten, at the level of 1 %.

    Args:
        white: How many images withstood the gradient attacks.
        black: How many withstood the search.
        both: How many withstood both.
        images: How many images there are.
    """
    gain, alone, disputed = (white - black) / images, white - both, white + black - 2 * both
    chance = sum(math.comb(disputed, wins) for wins in range(alone, disputed + 1)) / 2**disputed
    if gain <= BLACK_BOX_GAIN or chance >= BLACK_BOX_CHANCE:
        return None
    message = (
        f"On {images} images, gradient attacks leave an accuracy of {100 * white / images:.1f} %, and Square, which "
        f"sees no gradients, one of {100 * black / images:.1f} %: gradients do not lead where the network is weak. "
        f"Quote the worst case over both ({100 * both / images:.1f} %), and look for what hides the gradient."
    )
    return Flag("black_box", gain, BLACK_BOX_GAIN, message)


def unlimited_eps(left: int, images: int) -> Flag | None:
    """Judge how many images withstand a gradient attack that may do anything."""
    if left / images <= LEFT_WITHOUT_LIMIT:
        return None
    message = (
        f"{left} of {images} images withstand a gradient attack that may set every pixel to any value, though it could "
        "turn them into images that the network gives another class: it is the attack that fails, not the network "
        "that is robust. Look for what hides the gradient, and attack with Square too."
    )
    return Flag("unlimited_eps", left / images, LEFT_WITHOUT_LIMIT, message)


def pgd_gap(pgd: tuple[str, float], reference: tuple[str, float]) -> Flag | None:
    """Judge the accuracies, by name, that PGD and AutoAttack leave at the same budget."""
    gap = pgd[1] - reference[1]
    if gap <= PGD_GAP:
        return None
    message = (
        f"{pgd[0]} leaves an accuracy of {100 * pgd[1]:.1f} %, {reference[0]} {100 * reference[1]:.1f} % at the same "
        "budget: plain gradient steps are led astray. Quote AutoAttack's number, and look at the step size first, then "
        "for what hides the gradient."
    )
    return Flag("pgd_gap", round(gap, 6), PGD_GAP, message)
