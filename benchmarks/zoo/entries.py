"""What is in the zoo, and what its cards say besides figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from lightning_advreg.attacks import PGD, Attack, AutoAttack

EPS = 0.3

_USE = (
    "A network to measure attacks on, to compare a method of your own with, to read examples with, and to teach with, "
    "without training anything first."
)
_LIMITS = (
    "Images of 28x28 pixels of single handwritten digits that are centred and scaled as in MNIST, white on black. What "
    "other images give was not measured; every image gets one of ten digits, whatever it shows.",
    "Not for decisions about people, money or safety: MNIST is a teaching set, and no figure here carries over to "
    "digits from other sources.",
    "One network from one seed: how much figures move between seeds was not measured.",
)
_NOT_TESTED = (
    "Attacks in other norms than the figures name, corruptions, rotations and patches were not measured, and neither "
    "were attacks written against this network."
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A network of the zoo.

    Attributes:
        name: What ``load_model`` takes.
        run: The folder of its run.
        summary: What it is, in a few words.
        what: What it is, in a paragraph. Figures come in as ``{clean}``, ``{pgd40_same}``, ``{autoattack}``.
        use: What it is for.
        limits: What it must not be used for, and what was not tested.
        weights: Those at the end of training, or their average.
        extractor: Of a generator, the network of the zoo in whose features samples are judged.
    """

    name: str
    run: str
    summary: str
    what: str
    use: str = _USE
    limits: tuple[str, ...] = (*_LIMITS, _NOT_TESTED)
    weights: Literal["raw", "average"] = "raw"
    extractor: str | None = None
    eps: float = EPS

    def measured(self) -> Mapping[str, tuple[str, Attack | None]]:
        """Give what a classifier is measured with, by key: a title, and an attack or None.

        AutoAttack gets a part of the test images. What is measured on all of them is measured again on that part, under
        a key that ends in ``_same``, so that attacks can be compared image by image.
        """
        pgd = PGD(eps=self.eps, step_size=0.01, steps=40, seed=0, stop_at_success=True)
        return {
            "clean": ("clean", None),
            "pgd40": (f"PGD-40, Linf {self.eps}", pgd),
            "clean_same": ("clean, the images of AutoAttack", None),
            "pgd40_same": (f"PGD-40, Linf {self.eps}, the images of AutoAttack", pgd),
            "autoattack": (f"AutoAttack, Linf {self.eps}", AutoAttack(eps=self.eps, version="standard", seed=0)),
        }


_ALL = (
    Entry(
        name="mnist_plain",
        run="mnist_plain",
        summary="plain training: no defence",
        what="A small convolutional network trained plainly, with dropout and without penalties, limits or attacks: "
        "the baseline that the others are compared with. It reads {clean} of the test images, and AutoAttack at Linf "
        "0.3 leaves {autoattack}. The generator of this zoo is judged in its features.",
        limits=(*_LIMITS, "It does not withstand this attack, and was not trained to.", _NOT_TESTED),
    ),
    Entry(
        name="mnist_max_norm",
        run="mnist_max_norm",
        summary="hard regularisation: max-norm 2 on every unit",
        what="The network of `mnist_plain`, trained for longer and with a hard limit: after each step the weights "
        "of every unit are projected to a Euclidean norm of at most 2 (max-norm regularisation). It reads {clean} of "
        "the test images. AutoAttack at Linf 0.3 leaves {autoattack}: a limit of this kind is no defence.",
        limits=(*_LIMITS, "It does not withstand this attack, and was not trained to.", _NOT_TESTED),
    ),
    Entry(
        name="mnist_pgd_at",
        run="mnist_pgd",
        summary="PGD adversarial training, Linf 0.3",
        what="A narrow convolutional network trained on images attacked with PGD-10 at Linf 0.3 (Madry et al. 2018), "
        "the budget growing during the first epochs. It reads {clean} of the clean test images; of the first 1,000, "
        "PGD-40 leaves {pgd40_same} and AutoAttack {autoattack}.",
        limits=(*_LIMITS, "Trained for the threat model of Linf up to 0.3 alone.", _NOT_TESTED),
    ),
    Entry(
        name="mnist_trades",
        run="mnist_robust",
        weights="average",
        summary="TRADES at Linf 0.33, for robustness at 0.3",
        what="The most robust network of this zoo: TRADES with beta 2 (Zhang et al. 2019) against PGD-10 at Linf 0.33, "
        "a little more than the budget it is measured at, with an exponential moving average of the weights. It reads "
        "{clean} of the clean test images; of the first 1,000, PGD-40 leaves {pgd40_same} and AutoAttack {autoattack}.",
        limits=(*_LIMITS, "Trained for the threat model of Linf up to 0.33 alone.", _NOT_TESTED),
    ),
    Entry(
        name="mnist_dcgan_conditional",
        run="mnist_gan_conditional",
        weights="average",
        extractor="mnist_plain",
        summary="generator of digits by class (conditional DCGAN)",
        what="The averaged generator of a conditional DCGAN: conditional BatchNorm, trained with the hinge loss "
        "against a projection discriminator under spectral normalisation. Of {samples} samples `mnist_plain` "
        "reads {class_accuracy} as the digit that was asked for.",
        use="A generator to draw digits with, to try metrics of generated images on, and to make extra training images "
        "with (`lightning-advreg samples --zoo mnist_dcgan_conditional --num 50000 --out generated.npz`).",
        limits=(
            "It draws digits in the manner of MNIST, and nothing else.",
            "Distances are in the features of a small classifier of digits: they compare generators that the same "
            "classifier has judged, and are not FID.",
            "Whether it repeats training images was not measured.",
            "One network from one seed: how much figures move between seeds was not measured.",
        ),
    ),
)

ENTRIES: Mapping[str, Entry] = {entry.name: entry for entry in _ALL}
"""The networks of the zoo by name, those that others need first."""
