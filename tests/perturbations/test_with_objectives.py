"""Every objective that can be made without arguments trains at moved weights."""

import importlib
import inspect
import pkgutil

import pytest

import lightning_advreg.objectives
from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.attacks.worst_of import WorstOf
from lightning_advreg.objectives import Objective
from lightning_advreg.perturbations.awp import AWP

from .training import adversarial, equal, fit, weights


def objectives():
    for module in pkgutil.iter_modules(lightning_advreg.objectives.__path__):
        if module.name == "gan":
            continue
        found = importlib.import_module(f"lightning_advreg.objectives.{module.name}")
        for cls in vars(found).values():
            if inspect.isclass(cls) and issubclass(cls, Objective) and cls.__module__ == found.__name__:
                required = [p for p in inspect.signature(cls).parameters.values() if p.default is p.empty]
                if not inspect.isabstract(cls) and not required:
                    yield cls


def counted(method, calls):
    def call(self, model, *args):
        calls.append(weights(model))
        return method(self, model, *args)

    return call


@pytest.mark.parametrize("cls", sorted(objectives(), key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def test_every_objective_crafts_once_and_takes_its_loss_twice(cls, monkeypatch):
    crafts, losses = [], []
    for name, calls in (("craft", crafts), ("loss", losses)):
        monkeypatch.setattr(cls, name, counted(getattr(cls, name), calls))
    attack = PGD(eps=0.1, step_size=0.05, steps=2)
    if cls.__name__ == "AverageOverAttacks":
        attack = WorstOf([attack, FGSM(eps=0.1)])
    model = adversarial(AWP(gamma=0.1), attack=attack, objective=cls())
    fit(model, limit_train_batches=2)
    steps = 2 * model.replays
    assert len(crafts) == steps
    assert len(losses) == 2 * steps
    for i in range(steps):
        assert equal(crafts[i], losses[2 * i])
        assert not equal(losses[2 * i], losses[2 * i + 1])
    assert all(p.isfinite().all() for p in model.network.parameters())
