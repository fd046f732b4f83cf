"""Classifiers, data and a Trainer for training with moved weights."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import PGD, Attack
from lightning_advreg.penalties import L2
from lightning_advreg.perturbations.awp import AWP
from lightning_advreg.perturbations.sam import ASAM, SAM
from tests.modules.parts import conv, trainer

BATCHES = 4
PERTURBATIONS = [AWP(gamma=0.05), SAM(rho=0.2), ASAM()]
each_perturbation = pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda p: type(p).__name__)


class Counted(Attack):
    """Three steps with fixed starts, and the weights that they were run at."""

    def __init__(self):
        self.attack = PGD(eps=0.1, step_size=0.05, steps=3, seed=1)
        self.sizes, self.weights = [], []

    def __call__(self, model, x, y):
        self.sizes.append(len(x))
        self.weights.append(weights(model))
        return self.attack(model, x, y)


class Data(LightningDataModule):
    """The same batches in every epoch."""

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(8 * BATCHES, 1, 8, 8, generator=generator)
        return DataLoader(TensorDataset(x, torch.arange(len(x)) % 10), batch_size=8)


class At(Callback):
    """Call ``function(trainer, module)`` at hooks."""

    def __init__(self, function, *hooks):
        for hook in hooks:
            setattr(self, hook, lambda trainer, module, *args: function(trainer, module))


def weights(network):
    return [p.detach().clone() for p in network.parameters()]


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9)


def adversarial(perturbation, **settings):
    defaults = {"attack": Counted(), "penalties": [L2(0.01)], "optimizer": SGD}
    return AdversarialClassifier(
        conv(norm="batch", activation="softplus"), weight_perturbation=perturbation, **{**defaults, **settings}
    )


def regularized(perturbation, **settings):
    defaults = {"penalties": [L2(0.01)], "optimizer": SGD}
    return RegularizedClassifier(
        conv(norm="batch", activation="softplus"), weight_perturbation=perturbation, **{**defaults, **settings}
    )


def fit(model, **settings):
    fitting = trainer(limit_val_batches=0, **settings)
    fitting.fit(model, datamodule=Data())
    return fitting
