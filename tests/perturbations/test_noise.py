"""Noise on the weights: its statistics, its cost, and that weights come back."""

import pytest
import torch
from torch import nn

from lightning_advreg.perturbations import WeightNoise
from tests.modules.parts import AtBatches

from .training import adversarial, equal, fit, regularized, weights


@pytest.mark.parametrize(("relative", "expected"), [(True, 0.2 * 5), (False, 0.2)])
def test_moves_have_their_standard_deviation(relative, expected):
    network = nn.Sequential(nn.Linear(200, 300), nn.LayerNorm(300))
    nn.init.constant_(network[0].weight, -5.0)
    before = weights(network)
    climb = WeightNoise(std="1/5", relative=relative).climb_(network, pytest.fail)
    move = network[0].weight - before[0]
    assert move.std().item() == pytest.approx(expected, rel=0.02) and move.mean().abs() < 0.02
    assert equal(weights(network)[1:], before[1:])
    climb.back_()
    assert equal(weights(network), before)


def test_weights_of_zero_and_frozen_ones_stay_where_noise_is_relative():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    nn.init.zeros_(network[0].weight)
    network[1].weight.requires_grad_(False)
    before = weights(network)
    WeightNoise(std=1).climb_(network, pytest.fail)
    assert equal(weights(network), before)


@pytest.mark.parametrize("build", [regularized, adversarial])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_step_is_taken_at_the_weights_themselves(build, precision):
    """With a learning rate of 0 nothing remains of the noise, and each step had noise of its own and one pass."""
    model = build(WeightNoise(std=0.5), optimizer=lambda p: torch.optim.SGD(p, lr=0.0), penalties=[])
    before, seen = weights(model.network), []

    def see(network, args, output):
        if network.training and torch.is_grad_enabled() and next(network.parameters()).requires_grad:
            seen.append(weights(network))

    model.network.register_forward_hook(see)
    fit(model, precision=precision, callbacks=[AtBatches(lambda *_: None)])
    assert equal(weights(model.network), before)
    assert len(seen) == 4
    assert len({w[0].sum().item() for w in seen}) == 4 and all(not w[0].equal(before[0]) for w in seen)
    # biases and scales of the normalisation stay
    assert all(w[1].equal(before[1]) for w in seen)


def test_running_statistics_follow_the_pass():
    model = regularized(WeightNoise(std=0.1))
    fit(model)
    (norm, *_) = (layer for layer in model.network.modules() if isinstance(layer, nn.BatchNorm2d))
    assert norm.num_batches_tracked == 4


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"^std must be at least 0, got -0.1"):
        WeightNoise(std=-0.1)
