"""Training with the engine in two processes."""

import os
import warnings

import pytest
import torch
from torch import nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.modules import Engine, adversarial, compilation
from lightning_advreg.objectives import PGDAT

from .parts import conv, trainer
from .two_processes import batches

_COMPILED = Engine(compile=True, attack_copy=False, channels_last=True)


@pytest.fixture(scope="module")
def weights(pair):
    return {path.stem: torch.load(path, weights_only=True) for path in pair.glob("*.pt")}


@pytest.mark.parametrize(("name", "tolerance"), [("compiled", 1e-9), ("copy", 1e-4)])
def test_two_processes_with_the_engine_give_the_weights_of_two_without(weights, name, tolerance):
    start = start_weights()
    assert any((weights["plain-0"][key] - value).abs().max() > 1e-2 for key, value in start.items())
    for rank in range(2):
        for key, value in weights[f"plain-{rank}"].items():
            got = weights[f"{name}-{rank}"][key]
            torch.testing.assert_close(got.double(), value.double(), rtol=0, atol=tolerance, msg=key)


@pytest.mark.parametrize("name", ["compiled", "copy"])
def test_the_engine_keeps_the_processes_together(weights, name):
    first, second = weights[f"{name}-0"], weights[f"{name}-1"]
    assert all(torch.equal(value, second[key]) for key, value in first.items() if "running" not in key)
    # each process has seen its own images
    assert not all(torch.equal(value, second[key]) for key, value in first.items())


def start_weights():
    torch.manual_seed(1)
    return conv(norm="batch").double().state_dict()


def fit(rank, engine, precision):
    torch.manual_seed(1)
    # numbers that are drawn differ between precisions
    attack = PGD(eps=0.2, step_size=0.1, steps=2, random_start=False)
    model = AdversarialClassifier(
        conv(norm="batch"),
        attack,
        PGDAT(clean_weight=0.5),
        engine=engine,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )
    settings = {"use_distributed_sampler": False, "strategy": "ddp", "devices": 2, "precision": precision}
    data = batches(16, rank, 2)
    if precision == "32-true":
        data.dataset.tensors = (data.dataset.tensors[0].float(), data.dataset.tensors[1])
    trainer(max_epochs=2, limit_val_batches=0, **settings).fit(model, data)
    return model.network.state_dict()


def in_pair(folder):
    kept = compilation._BACKEND, adversarial.live_copy
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*without torch.compile.*")
            _train_three_ways(folder, int(os.environ["RANK"]))
    finally:
        compilation._BACKEND, adversarial.live_copy = kept


def _train_three_ways(folder, rank):
    programs, copies = set(), []

    def backend(graph, inputs):
        programs.add(any(isinstance(value, nn.Parameter) and value.requires_grad for value in inputs))
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    def copied(network, example):
        copies.append(live_copy(network, example))
        return copies[-1]

    live_copy = adversarial.live_copy
    compilation._BACKEND, adversarial.live_copy = backend, copied
    torch.save(fit(rank, None, "64-true"), folder / f"plain-{rank}.pt")
    assert not programs and not copies
    torch.save(fit(rank, _COMPILED, "64-true"), folder / f"compiled-{rank}.pt")
    # one for attacks, one for training
    assert programs == {False, True}
    torch.save(fit(rank, Engine(), "32-true"), folder / f"copy-{rank}.pt")
    assert copies and None not in copies
