"""Two processes train a GAN as one does."""

import os

import pytest
import torch

from .gan_two_processes import KINDS, fit


def in_pair(folder):
    rank = int(os.environ["RANK"])
    for kind in KINDS:
        weights = fit(kind, rank, 2, strategy="ddp_find_unused_parameters_true", devices=2)
        torch.save(weights, folder / f"{kind}-{rank}.pt")


@pytest.fixture(scope="module")
def states(pair):
    return {path.stem: torch.load(path, weights_only=True) for path in pair.glob("*.pt")}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_end_with_the_weights_of_one(states, kind):
    single = fit(kind)
    for rank in (0, 1):
        for key, value in single.items():
            torch.testing.assert_close(states[f"{kind}-{rank}"][key], value, rtol=1e-8, atol=1e-9, msg=f"{rank} {key}")
    assert (single["generator.layer.weight"] - single["generator_ema.layer.weight"]).abs().max() > 1e-6
