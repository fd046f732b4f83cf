"""DeepFool against those of foolbox and torchattacks: how often it succeeds, and how near."""

import pytest
import torch

from lightning_advreg.attacks.base import SearchAttack
from lightning_advreg.attacks.deepfool import DeepFool

ORDERS = {"linf": torch.inf, "l2": 2}

nets = pytest.mark.parametrize("name", ["digits", "cifar_sized"])


@pytest.fixture
def trained(name, request):
    """The network and some of its images."""
    x, y = request.getfixturevalue(f"{name}_batch")
    return request.getfixturevalue(f"{name}_net"), x[:40], y[:40]


def distances(net, norm, x_adv, x, y):
    """Of the successes; infinite elsewhere."""
    with torch.no_grad():
        wrong = net(x_adv).argmax(1) != y
    return torch.where(wrong, torch.linalg.vector_norm((x_adv - x).flatten(1), ORDERS[norm], dim=1), torch.inf)


def compare(net, norm, expected, x, y, *, at_least):
    found = distances(net, norm, SearchAttack.__call__(DeepFool(norm=norm), net, x, y), x, y)
    expected = distances(net, norm, expected, x, y)
    both = expected.isfinite()
    assert both.float().mean() >= at_least
    assert found.isfinite().float().mean() >= both.float().mean() - 0.005
    found, expected = found[both], expected[both]
    assert found.median() <= 1.02 * expected.median()
    assert (found <= 1.05 * expected).float().mean() >= 0.9


@nets
@pytest.mark.parametrize("norm", ORDERS)
def test_as_near_as_foolbox(trained, name, norm):
    foolbox = pytest.importorskip("foolbox")
    net, x, y = trained
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    attack = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}[norm]
    expected, _, _ = attack(steps=50, candidates=10, overshoot=0.02, loss="logits")(model, x, y, epsilons=None)
    compare(net, norm, expected, x, y, at_least=0.95)


@nets
def test_as_near_as_torchattacks(trained, name):
    torchattacks = pytest.importorskip("torchattacks")
    net, x, y = trained
    # it clips without noticing that this takes back some successes
    compare(net, "l2", torchattacks.DeepFool(net, steps=50, overshoot=0.02)(x, y), x, y, at_least=0.6)
