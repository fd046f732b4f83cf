"""Every penalty in two processes: with one mind, and in classifiers that of a single process."""

import os

import pytest
import torch

from .two_processes import KINDS, build, fit


def in_pair(folder):
    rank = int(os.environ["RANK"])
    for kind in KINDS:
        strategy = "ddp_find_unused_parameters_true" if kind == "gan" else "ddp"
        torch.save(fit(kind, rank, 2, strategy=strategy, devices=2), folder / f"{kind}-{rank}.pt")


@pytest.fixture(scope="module")
def states(pair):
    return {path.stem: torch.load(path, weights_only=True) for path in pair.glob("*.pt")}


@pytest.mark.parametrize("kind", KINDS)
def test_the_processes_agree_on_weights_and_on_what_penalties_remember(states, kind):
    first, second = states[f"{kind}-0"], states[f"{kind}-1"]
    assert first.keys() == second.keys()
    assert sum("penalty_states" in key for key in first) >= 6
    for key, value in first.items():
        if "fixed_latent" not in key and "acc" not in key:
            assert torch.equal(value, second[key]) and value.isfinite().all(), key


@pytest.mark.parametrize("kind", ["regularized", "adversarial"])
def test_two_processes_train_as_one(states, kind):
    single, start = fit(kind), build(kind).state_dict()
    for key, value in single.items():
        if key.startswith(("network", "penalty_states")):
            torch.testing.assert_close(states[f"{kind}-0"][key], value, rtol=0, atol=1e-5)
    assert (single["network.features.0.weight"] - start["network.features.0.weight"]).abs().max() > 1e-3
