"""All attacks on one network of MNIST: how much accuracy each leaves, how far it goes, and how long it takes."""

import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from torch import Tensor, nn

from benchmarks.each_method.study import Column, Row, Study, Values
from lightning_advreg.attacks import APGD, CW, FAB, FGSM, NFGSM, PGD, Attack, AutoAttack, DeepFool, Noise, Square
from lightning_advreg.attacks.threat import Norm
from lightning_advreg.data import MNISTDataModule
from lightning_advreg.evaluation import evaluate_robustness
from lightning_advreg.files.weights import load_network
from lightning_advreg.metrics.gan_features import hash_of_weights

EPS: dict[Norm, float] = {"linf": 0.3, "l2": 2.0}
NAMES = ("attacks_linf", "attacks_l2")
IMAGES = 500


class OneNetwork:
    """A trained network and the first test images of MNIST.

    Args:
        norm: The norm of the ball.
        weights: The network, a file of ``export_weights``.
        data_dir: The folder that holds MNIST.
        images: How many test images.
    """

    columns: Sequence[Column] = (
        Column("left", "accuracy left", "%"),
        Column("low", "95 % interval from", "%"),
        Column("high", "to", "%"),
        Column("size", "median perturbation", ""),
        Column("seconds", "processor time", "s"),
    )

    def __init__(self, norm: Norm, weights: Path | None, data_dir: Path, images: int = IMAGES) -> None:
        self.norm, self.weights, self.data_dir, self.images = norm, weights, data_dir, images
        self.options = f" --weights FILE --data-dir DIR --images {images}"

    @property
    def title(self) -> str:
        """Head the section of the page."""
        return "Attacks in Linf" if self.norm == "linf" else "Attacks in L2"

    @property
    def task(self) -> str:
        """Say what is attacked."""
        network = _network(self.weights)
        return (
            f"MNIST, {type(network).__name__} with the weights {hash_of_weights(network)} of {_name(self.weights)}, "
            f"test images 0 to {self.images - 1}, {'Linf' if self.norm == 'linf' else 'L2'} eps {EPS[self.norm]}"
        )

    def prepare(self, baseline: Row) -> None:
        """Read the network and the images, so that no attack waits for them."""
        _network(self.weights)
        _images(self.data_dir, self.images)

    def measure(self, row: Row, seed: int) -> Values:
        """Attack all images."""
        network, (x, y) = _network(self.weights), _images(self.data_dir, self.images)
        attack: Attack | None = row.build(seed)
        # no attack: a step of length 0
        tried = FGSM(norm=self.norm, eps=0) if attack is None else attack
        started = time.process_time()
        report = evaluate_robustness(network, x, y, {"it": tried}, masking=False, seed=seed, batch_size=self.images)
        seconds = time.process_time() - started
        found = report.attacks["it"]
        # of a fixed budget the size says nothing
        size = found.perturbation.get("median_all", math.nan) if isinstance(tried, CW | DeepFool | FAB) else math.nan
        low, high = found.robust.interval
        return {
            "left": round(100 * found.robust.accuracy, 2),
            "low": round(100 * low, 2),
            "high": round(100 * high, 2),
            "size": round(size, 4) if math.isfinite(size) else None,
            "seconds": None if attack is None else round(seconds, 2),
        }

    def cost(self, baseline: Row) -> float | None:
        """Give nothing: seconds are a column."""
        return None


@cache
def _network(weights: Path | None) -> nn.Module:
    if weights is None:
        raise ValueError("attacks need a network; give --weights FILE.")
    return load_network(weights)


@cache
def _images(data_dir: Path, images: int) -> tuple[Tensor, Tensor]:
    data = MNISTDataModule(data_dir=data_dir, batch_size=images, eval_batch_size=images, loader="resident")
    data.prepare_data()
    data.setup("test")
    x, y = next(iter(data.test_dataloader()))
    return x[:images], y[:images]


def _name(weights: Path | None) -> str:
    return "no file" if weights is None else weights.stem


def studies(weights: Path | None, data_dir: Path, images: int = IMAGES) -> list[Study]:
    """Give the studies of attacks in Linf and in L2."""
    linf, l2 = (OneNetwork(norm, weights, data_dir, images) for norm in ("linf", "l2"))
    note = "Each attack tries all images that are right without it, in one batch and one thread."
    return [
        Study("attacks_linf", linf, tuple(Row(name, _of(make)) for name, make in _linf().items()), note),
        Study("attacks_l2", l2, tuple(Row(name, _of(make)) for name, make in _l2().items()), note),
    ]


def _of(attack: Attack | None) -> object:
    return lambda seed: attack


def _linf() -> dict[str, Attack | None]:
    eps = EPS["linf"]
    return {
        "none": None,
        "Noise": Noise(eps=eps),
        "FGSM": FGSM(eps=eps),
        "FGSM-RS": FGSM(eps=eps, random_start=True),
        "NFGSM, noise 1": NFGSM(eps=eps, noise=1.0),
        "PGD-40": PGD(eps=eps, step_size=0.01, steps=40),
        "PGD-40, 5 restarts": PGD(eps=eps, step_size=0.01, steps=40, restarts=5),
        "DeepFool": DeepFool(norm="linf", eps=eps),
        "APGD-CE": APGD(eps=eps),
        "APGD-DLR": APGD(eps=eps, loss="dlr"),
        "APGD-T": _stage(eps, "apgd-t"),
        "FAB-T": _stage(eps, "fab-t"),
        "Square, 1000 queries": Square(eps=eps, queries=1000),
        "AutoAttack, fast": AutoAttack(eps=eps, version="fast"),
        "AutoAttack, standard": AutoAttack(eps=eps),
    }


def _l2() -> dict[str, Attack | None]:
    eps = EPS["l2"]
    return {
        "none": None,
        "Noise": Noise(norm="l2", eps=eps),
        "FGSM": FGSM(norm="l2", eps=eps),
        "PGD-40": PGD(norm="l2", eps=eps, step_size=0.2, steps=40),
        "PGD-40, 5 restarts": PGD(norm="l2", eps=eps, step_size=0.2, steps=40, restarts=5),
        "DeepFool": DeepFool(eps=eps),
        "CW, 5 x 200 steps": CW(eps=eps, steps=200, binary_search_steps=5),
        "APGD-CE": APGD(norm="l2", eps=eps),
        "APGD-DLR": APGD(norm="l2", eps=eps, loss="dlr"),
        "APGD-T": _stage(eps, "apgd-t", "l2"),
        "FAB-T": _stage(eps, "fab-t", "l2"),
        "Square, 1000 queries": Square(norm="l2", eps=eps, queries=1000),
        "AutoAttack, fast": AutoAttack(norm="l2", eps=eps, version="fast"),
        "AutoAttack, standard": AutoAttack(norm="l2", eps=eps),
    }


def _stage(eps: float, name: str, norm: Norm = "linf") -> Attack:
    """Give a targeted attack as AutoAttack has it."""
    return AutoAttack(norm=norm, eps=eps).stages(10)[name]
