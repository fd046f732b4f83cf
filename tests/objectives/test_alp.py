import copy

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import PGD
from lightning_advreg.objectives.alp import ALP

from .test_pgd_at import literal_cross_entropy, literal_pgd
from .test_trades import assert_same


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    model(torch.rand(32, 1, 6, 6))
    return model.double().train()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 1, 6, 6).double(), torch.tensor([0, 1, 2, 3, 4, 0])


ATTACK = PGD(eps=0.1, step_size=0.03, steps=3, seed=0)


@pytest.mark.parametrize(("weight", "share"), [(0.5, 0.5), (2, 0), (1, 1), (0, 0.25)])
def test_loss_and_gradients_equal_the_formula(net, batch, weight, share):
    x, y = batch
    # a copy: each pass moves the statistics that the attack sees
    reference = copy.deepcopy(net)
    x_adv = literal_pgd(reference, x, y)
    logits, logits_adv = reference(x), reference(x_adv)
    squares = sum((logits[i, k] - logits_adv[i, k]) ** 2 for i in range(6) for k in range(5))
    expected = weight * squares / (6 * 5)
    expected = expected + share * literal_cross_entropy(logits, y, 0)
    expected = expected + (1 - share) * literal_cross_entropy(logits_adv, y, 0)
    assert_same(ALP(weight=weight, clean_weight=share)(net, x, y, ATTACK).loss, net, expected, reference)


def test_the_defaults_are_the_papers():
    assert ALP() == ALP(weight=0.5, clean_weight=0.5)


def test_batch_norm_sees_the_batches_apart(net, batch):
    x, y = batch
    x_adv = ATTACK(net, x, y)
    seen = net[1].num_batches_tracked.item()
    output = ALP()(net, x, y, ATTACK)
    assert net[1].num_batches_tracked == seen + 2
    torch.testing.assert_close(output.logits, net(x))
    torch.testing.assert_close(output.logits_adv, net(x_adv))


def test_number_of_passes(net, batch):
    calls = []
    net.register_forward_hook(lambda *arguments: calls.append(1))
    ALP()(net, *batch, ATTACK)
    assert len(calls) == 3 + 2


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        ALP(weight=-1)
    with pytest.raises(ValueError, match=r"clean_weight must be at most 1, got 1\.5"):
        ALP(clean_weight=1.5)
    with pytest.raises(ValueError, match=r"clean_weight must be at least 0, got -0\.5"):
        ALP(clean_weight=-0.5)
    assert ALP(clean_weight="1/4").clean_weight == 0.25
