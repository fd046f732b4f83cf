import copy
import math

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import PGD
from lightning_advreg.objectives.mart import MART

from .test_pgd_at import literal_pgd
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


def literal_mart(logits, logits_adv, y, beta):
    total = 0
    for z, z_adv, label in zip(logits, logits_adv, y.tolist(), strict=True):
        p, q = z.exp() / z.exp().sum(), z_adv.exp() / z_adv.exp().sum()
        best_wrong = max((k for k in range(len(q)) if k != label), key=lambda k: q[k].item())
        boosted = -q[label].log() - (1.0001 - q[best_wrong] + 1e-12).log()
        divergence = sum(p[k] * (p[k].log() - q[k].log()) for k in range(len(p)))
        total = total + boosted + beta * divergence * (1.0000001 - p[label])
    return total / len(y)


@pytest.mark.parametrize("settings", [{}, {"beta": 0}, {"beta": 6}])
def test_loss_and_gradients_equal_the_formula(net, batch, settings):
    x, y = batch
    # a copy: each pass moves the statistics that the attack sees
    reference = copy.deepcopy(net)
    x_adv = literal_pgd(reference, x, y)
    expected = literal_mart(reference(x), reference(x_adv), y, settings.get("beta", 5))
    assert_same(MART(**settings)(net, x, y, ATTACK.maximising("margin")).loss, net, expected, reference)


def test_the_attack_maximises_cross_entropy(net, batch):
    (x_adv,) = MART().craft(net, *batch, ATTACK.maximising("kl"))
    assert torch.equal(x_adv, ATTACK(net, *batch))


@pytest.mark.parametrize("right", [True, False])
def test_known_values(right):
    # clean (1/2, 1/4, 1/4), attacked (1/8, 5/8, 1/4): the best wrong class is 1 for label 0, and 2 for label 1
    p, q = [0.5, 0.25, 0.25], [0.125, 0.625, 0.25]
    label, wrong = (0, 1) if right else (1, 2)
    x, x_adv = (torch.tensor(row).log().view(1, 1, 1, 3) for row in (p, q))
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    expected = -math.log(q[label]) - math.log(1.0001 - q[wrong]) + 5 * kl * (1 - p[label])
    loss = MART().loss(nn.Flatten(), x, torch.tensor([label]), (x_adv,)).loss
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_divergence_counts_for_images_that_the_network_is_unsure_of():
    # the same attacked prediction, and the same clean one up to which class is the label
    x, x_adv = torch.tensor([[[[4.0, 0.0, 0.0]]]]), torch.zeros(1, 1, 1, 3)
    weighed = []
    for label in (0, 1):
        losses = [MART(beta=beta).loss(nn.Flatten(), x, torch.tensor([label]), (x_adv,)).loss for beta in (0, 1)]
        weighed.append((losses[1] - losses[0]).item())
    p = torch.tensor([4.0, 0.0, 0.0]).softmax(0)
    assert weighed[0] / weighed[1] == pytest.approx(((1 - p[0]) / (1 - p[1])).item(), rel=1e-3)


def test_batch_norm_sees_the_batches_apart(net, batch):
    x, y = batch
    mean, seen = net[1].running_mean.clone(), net[1].num_batches_tracked.item()
    x_adv = ATTACK(net, x, y)
    output = MART()(net, x, y, ATTACK)
    assert net[1].num_batches_tracked == seen + 2
    for images in (x, x_adv):
        mean = 0.9 * mean + 0.1 * net[0](images).mean((0, 2, 3))
    torch.testing.assert_close(net[1].running_mean, mean)
    torch.testing.assert_close(output.logits, net(x))
    torch.testing.assert_close(output.logits_adv, net(x_adv))


def test_number_of_passes(net, batch):
    calls = []
    net.register_forward_hook(lambda *arguments: calls.append(1))
    MART()(net, *batch, ATTACK)
    assert len(calls) == 3 + 2


def test_beta_out_of_range_is_named():
    with pytest.raises(ValueError, match="beta must be at least 0, got -1"):
        MART(beta=-1)
    assert MART(beta="5/2").beta == 2.5
