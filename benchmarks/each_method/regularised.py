"""Plain training on few digits: the setting, and the studies of what works against overfitting."""

import copy
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks.each_method.study import Column, Row, Values
from benchmarks.each_method.training import Clock, PacedSetting, fit, seed_all
from lightning_advreg import RegularizedClassifier
from lightning_advreg.attacks import PGD, Attack, AutoAttack, attack_in_stages
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.networks import MNISTConvNet, PreActResNet18

EPS, EPOCHS, TRAIN_IMAGES = 0.1, 60, 150


class FewImages(PacedSetting):
    """The small CNN on 150 digits, without attacks.

    Args:
        epochs: Of training.
        images: How many test images to look at; None for all 360.
        pace_epochs: Epochs of the baseline that each cost is measured against.
    """

    options = ""
    title = "Few training images"
    columns: Sequence[Column] = (
        Column("clean", "clean", "%"),
        Column("gap", "training less test accuracy", "points"),
        Column("pgd20", f"PGD-20, eps {EPS}", "%"),
        Column("autoattack", "AutoAttack fast", "%"),
        Column("cost", "time of training", "x"),
    )

    def __init__(self, epochs: int = EPOCHS, images: int | None = None, pace_epochs: int = 10) -> None:
        super().__init__(epochs, pace_epochs)
        self.images = images

    @property
    def task(self) -> str:
        """Say what is trained and measured."""
        return (
            f"8x8 digits, {TRAIN_IMAGES} images for training, {self.epochs} epochs without attacks, "
            f"{self.images or 360} test images"
        )

    def measure(self, row: Row, seed: int) -> Values:
        """Train, look at training and test images, attack, and keep the time."""
        clock = Clock()
        network = self._trained(row, seed, self.epochs, clock)
        self._spent = sum(clock.seconds)
        data = _data(seed)
        data.setup("fit")
        data.setup("test")
        x, y = (part[: self.images] for part in _all(data.test_dataloader()))
        clean, pgd = self._left(network, x, y, {"pgd": PGD(eps=EPS, step_size=0.02, steps=20)}, seed)
        _, autoattack = self._left(network, x, y, AutoAttack(eps=EPS, version="fast").stages(10), seed)
        seen = 100 * accuracy(network, *_all(data.train_dataloader()))
        left = {"clean": clean, "gap": seen - clean, "pgd20": pgd, "autoattack": autoattack}
        return {name: round(value, 3) for name, value in left.items()}

    @staticmethod
    def _left(network: nn.Module, x: Tensor, y: Tensor, stages: Mapping[str, Attack], seed: int) -> tuple[float, float]:
        outcome = attack_in_stages(network, x, y, stages, seed=seed, batch_size=360)
        return 100 * int(outcome.clean.sum()) / len(x), 100 * int(outcome.robust.sum()) / len(x)

    def _trained(self, row: Row, seed: int, epochs: int, clock: Clock) -> nn.Module:
        # made first: helpers draw from the generators
        arguments: dict[str, Any] = dict(row.build(seed))
        callbacks: Sequence[Callback] = arguments.pop("callbacks", ())
        learning_rate = arguments.pop("lr", 1e-3)
        seed_all(seed)
        build = arguments.pop("network", None)
        network = build() if build is not None else network_of_digits()
        module = RegularizedClassifier(network, optimizer=partial(Adam, lr=learning_rate), **arguments)
        fit(module, _data(seed), epochs, clock, callbacks)
        return module.network.eval()


def network_of_digits(**arguments: Any) -> MNISTConvNet:  # noqa: ANN401
    """Give the small CNN with other arguments than the defaults."""
    return MNISTConvNet(image_size=8, width=16, **arguments)


def small_resnet(**arguments: Any) -> PreActResNet18:  # noqa: ANN401
    """Give a thin residual network, for dropping branches."""
    return PreActResNet18(in_channels=1, width=4, **arguments)


@cache
def _pretrained(seed: int) -> nn.Module:
    """Give a network trained on all training images upside down, to be tuned on few that stand upright."""
    seed_all(seed)
    module = RegularizedClassifier(network_of_digits(), optimizer=partial(Adam, lr=1e-3))
    data = DigitsDataModule(batch_size=64, val_size=0, seed=seed, loader="resident")
    data.setup("fit")
    optimizer = Adam(module.network.parameters(), lr=1e-3)
    for epoch in range(15):
        loader = data.train_dataloader()
        loader.set_epoch(epoch) if hasattr(loader, "set_epoch") else None
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(module.network(x.flip(2)), y).backward()
            optimizer.step()
    return module.network


def pretrained(seed: int) -> nn.Module:
    """Give a copy of the network to fine-tune."""
    return copy.deepcopy(_pretrained(seed))


def accuracy(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Give the share of images that are classified correctly."""
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


def _data(seed: int) -> DigitsDataModule:
    return DigitsDataModule(
        batch_size=32, eval_batch_size=360, val_size=0, train_size=TRAIN_IMAGES, seed=seed, loader="resident"
    )


def _all(loader: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return x, y
