"""Trainings for the convergence monitor to watch."""

import warnings

import torch
from torch import nn

from lightning_advreg.callbacks.convergence_measurements import Sight

from .foreign import Foreign, loader, trainer

MEASURED = Sight.see
# measuring may take as long as it does: these trainings take no time at all
FREE = {"max_cost": 1e6}
QUICK = {"num_sanity_val_steps": 0}


class Plain(Foreign):
    """Without chance and without BatchNorm."""

    def __init__(self, attack=None):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 2))
        self.attack = attack


def watch(tmp_path, module, monitor, *callbacks, train=None, val="same", **settings):
    run = trainer(tmp_path, monitor, *callbacks, **{**QUICK, **settings})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train = loader(16) if train is None else train
        run.fit(module, train, loader(12, seed=1) if val == "same" else val)
    sentences = [str(warning.message) for warning in said if str(warning.message).startswith("Epoch")]
    assert sentences == [alarm.message for alarm in monitor.alarms]
    return run


def names(monitor):
    return [alarm.name for alarm in monitor.alarms]


def scripted(monkeypatch, pgd):
    """Make the measured accuracies those of a script; the network is looked at all the same."""
    course = iter(pgd)

    def see(sight, now, val, train, **settings):
        rate, seen = next(course), MEASURED(sight, now, val, train, **settings)
        bits = tuple(i < rate * 100 for i in range(100))
        for name in ("fgsm", "pgd", "train_pgd"):
            object.__setattr__(seen.look, name, bits)
        return seen

    monkeypatch.setattr(Sight, "see", see)
