"""What the tests of WeightAverage share."""

import copy

import torch
from lightning.pytorch.callbacks import Callback

from lightning_advreg.attacks import PGD

from .foreign import Foreign, loader, trainer

PGD3 = PGD(eps=0.05, step_size=0.03, steps=3, seed=3)


def values(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def assert_close(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-6, rtol=0)


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Trace(Callback):
    """The weights after each optimizer step, taken by the optimizer itself."""

    def __init__(self, start_epoch=0):
        self.start_epoch, self.weights = start_epoch, []

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.start_epoch:
            self.weights.append(values(module))
            for optimizer in trainer.optimizers:
                optimizer.register_step_post_hook(lambda *_: self.weights.append(values(module)))


def literal_average(weights, decay):
    average = {name: value.double() for name, value in weights[0].items()}
    for t, current in enumerate(weights[1:], start=1):
        tau = min(decay, (1 + t) / (10 + t))
        average = {name: tau * average[name] + (1 - tau) * current[name].double() for name in average}
    return {name: value.float() for name, value in average.items()}


def with_average(module, average):
    """A copy that holds the averaged weights and the buffers of the module."""
    other = Foreign()
    other.load_state_dict({**module.state_dict(), **average})
    return other


def accuracy(module, batches, attack=None):
    module = copy.deepcopy(module).eval()
    hits = [(module(x if attack is None else attack(module, x, y)).argmax(1) == y) for x, y in batches]
    return torch.cat(hits).float().mean()


def fit(tmp_path, *callbacks, module=None, val=None, **settings):
    module = Foreign(seed=1) if module is None else module
    run = trainer(tmp_path, *callbacks, **{"max_epochs": 3, **settings})
    run.fit(module, loader(16, shuffle=False), val, weights_only=True)
    return run, module
