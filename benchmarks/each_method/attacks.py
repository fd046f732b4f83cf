"""All attacks on one network of MNIST: how much accuracy each leaves, how far it goes, and how long it takes."""

import math
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.each_method.study import Column, Row, Study, Values
from lightning_advreg.attacks import (
    APGD,
    CW,
    FAB,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    DeepFool,
    LongAttack,
    Noise,
    Square,
    attack_in_stages,
)
from lightning_advreg.attacks.threat import Norm
from lightning_advreg.data import MNISTDataModule
from lightning_advreg.evaluation.attacks import stopping_at_success
from lightning_advreg.evaluation.report import Rate
from lightning_advreg.files.weights import load_network
from lightning_advreg.metrics.gan_features import hash_of_weights

EPS: dict[Norm, float] = {"linf": 0.3, "l2": 2.0}
NAMES = ("attacks_linf", "attacks_l2")
IMAGES = 500
_NOTE = (
    "Each attack tries all images that are right without it, in one batch and one thread. CW, DeepFool and FAB look "
    "for the smallest perturbation, and what exceeds eps is not counted; the median is over images that are right."
)
_MASKED = (
    "Training in Linf leaves gradients that mislead PGD, APGD and CW in L2: FAB, which searches along the decision "
    "boundary, and Square, which needs no gradient, find what they miss. Of such a network the worst figure counts."
)


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
        minimal = isinstance(attack, CW | DeepFool | FAB)
        # no attack: a step of length 0
        tried = FGSM(norm=self.norm, eps=0) if attack is None else stopping_at_success(attack)
        stages = tried.stages(10) if isinstance(tried, LongAttack) else {"it": tried}
        started = time.process_time()
        outcome = attack_in_stages(network, x, y, stages, seed=seed, batch_size=self.images)
        seconds = time.process_time() - started
        sizes = _sizes(outcome.x_adv - x, self.norm).masked_fill(outcome.robust, math.inf)
        # an attack that looks for the smallest perturbation knows no budget
        robust = outcome.robust | (outcome.clean & (sizes > EPS[self.norm] * (1 + 1e-5)))
        rate = Rate(int(robust.sum()), len(x))
        size = float(sizes[outcome.clean].median()) if minimal else math.inf
        low, high = rate.interval
        return {
            "left": round(100 * rate.accuracy, 2),
            "low": round(100 * low, 2),
            "high": round(100 * high, 2),
            "size": round(size, 4) if math.isfinite(size) else None,
            "seconds": None if attack is None else round(seconds, 2),
        }

    def remark(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Give nothing."""
        return ""

    def cost(self, baseline: Row) -> float | None:
        """Give nothing: seconds are a column."""
        return None


def _sizes(perturbations: Tensor, norm: Norm) -> Tensor:
    order = math.inf if norm == "linf" else 2
    return torch.linalg.vector_norm(perturbations.flatten(1), ord=order, dim=1)


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
    rows = (tuple(Row(name, _of(make)) for name, make in listed.items()) for listed in (_linf(), _l2()))
    return [
        Study("attacks_linf", linf, next(rows), _NOTE),
        Study("attacks_l2", l2, next(rows), f"{_NOTE} {_MASKED}"),
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
        "PGD-40": PGD(eps=eps, step_size=0.01, steps=40),
        "PGD-40, 5 restarts": PGD(eps=eps, step_size=0.01, steps=40, restarts=5),
        "DeepFool": DeepFool(norm="linf"),
        "APGD-CE": APGD(eps=eps),
        "APGD-DLR": APGD(eps=eps, loss="dlr"),
        "APGD-T": _stage(eps, "apgd-t"),
        "FAB-T": FAB(targets=9),
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
        "DeepFool": DeepFool(),
        "CW, 5 x 200 steps": CW(steps=200, binary_search_steps=5),
        "APGD-CE": APGD(norm="l2", eps=eps),
        "APGD-DLR": APGD(norm="l2", eps=eps, loss="dlr"),
        "APGD-T": _stage(eps, "apgd-t", "l2"),
        "FAB-T": FAB(norm="l2", targets=9),
        "Square, 1000 queries": Square(norm="l2", eps=eps, queries=1000),
        "AutoAttack, fast": AutoAttack(norm="l2", eps=eps, version="fast"),
        "AutoAttack, standard": AutoAttack(norm="l2", eps=eps),
    }


def _stage(eps: float, name: str, norm: Norm = "linf") -> Attack:
    """Give a targeted attack as AutoAttack has it."""
    return AutoAttack(norm=norm, eps=eps).stages(10)[name]
