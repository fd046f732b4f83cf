"""CW against those of foolbox and torchattacks: as many successes, no further away."""

import pytest
import torch

from lightning_advreg.attacks.base import SearchAttack
from lightning_advreg.attacks.cw import CW

STEPS = 200
SEARCHES = 7
CONST = 0.01


@pytest.fixture(scope="module")
def images(digits_batch):
    x, y = digits_batch
    return x[:40], y[:40]


@pytest.fixture(scope="module")
def ours(digits_net, images):
    attack = CW(steps=STEPS, binary_search_steps=SEARCHES, initial_const=CONST)
    return SearchAttack.__call__(attack, digits_net, *images)


def compare(net, images, ours, theirs):
    x, y = images
    with torch.no_grad():
        fallen, fallen_there = (net(x_adv).argmax(1) != y for x_adv in (ours, theirs))
    assert fallen_there.any()
    assert fallen.float().mean() >= fallen_there.float().mean() - 0.005 - 0.5 / len(y)
    both = fallen & fallen_there
    mine, others = ((x_adv - x).flatten(1).norm(dim=1)[both].median() for x_adv in (ours, theirs))
    assert mine <= 1.03 * others


def test_against_foolbox(digits_net, images, ours):
    foolbox = pytest.importorskip("foolbox")
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=SEARCHES, steps=STEPS, stepsize=0.01, initial_const=CONST
    )
    _, theirs, _ = attack(foolbox.PyTorchModel(digits_net, bounds=(0, 1)), *images, epsilons=None)
    compare(digits_net, images, ours, theirs)


@pytest.mark.parametrize("const", [1, 10])
def test_against_torchattacks(digits_net, images, ours, const):
    torchattacks = pytest.importorskip("torchattacks")
    theirs = torchattacks.CW(digits_net, c=const, kappa=0, steps=STEPS, lr=0.01)(*images)
    compare(digits_net, images, ours, theirs)
