"""FAB against that of torchattacks: success within eps, and distances, at equal steps."""

import pytest
import torch

from lightning_advreg.attacks.base import SearchAttack
from lightning_advreg.attacks.fab import FAB

torchattacks = pytest.importorskip("torchattacks")

ORDERS = {"linf": torch.inf, "l2": 2}
NETS = {"digits": {"linf": 0.15, "l2": 0.75}, "cifar_sized": {"linf": 24 / 255, "l2": 2.5}}
STEPS = 10

budgets = pytest.mark.parametrize(
    ("name", "norm", "eps"), [(name, norm, eps) for name, row in NETS.items() for norm, eps in row.items()]
)


@pytest.fixture
def trained(name, request):
    """The network and some of its images."""
    x, y = request.getfixturevalue(f"{name}_batch")
    return request.getfixturevalue(f"{name}_net"), x[:50], y[:50]


def distances(net, norm, x_adv, x, y):
    """Of the successes; infinite elsewhere."""
    with torch.no_grad():
        wrong = net(x_adv).argmax(1) != y
    return torch.where(wrong, torch.linalg.vector_norm((x_adv - x).flatten(1), ORDERS[norm], dim=1), torch.inf)


def theirs(net, norm, eps, x, y, *, multi_targeted=False, n_classes=10):
    attack = torchattacks.FAB(
        net,
        norm=norm.capitalize(),
        eps=eps,
        steps=STEPS,
        n_restarts=1,
        multi_targeted=multi_targeted,
        n_classes=n_classes,
    )
    return attack(x, y)


@budgets
@pytest.mark.parametrize("targets", [0, 3])
def test_succeeds_as_often_within_eps(trained, name, norm, eps, targets):
    net, x, y = trained
    expected = theirs(net, norm, eps, x, y, multi_targeted=targets > 0, n_classes=targets + 1)
    expected = (distances(net, norm, expected, x, y) <= eps * (1 + 1e-4)).float().mean()
    reached = {}
    for stop in (True, False):
        attack = FAB(norm=norm, eps=eps, steps=STEPS, targets=targets, stop_within_eps=stop)
        x_adv = SearchAttack.__call__(attack, net, x, y)
        reached[stop] = (distances(net, norm, x_adv, x, y) <= eps * (1 + 1e-4)).float().mean()
    # half a point and half an image
    assert min(reached.values()) >= expected - 0.005 - 0.5 / len(x)
    assert 0.2 < expected < 0.95


@budgets
def test_finds_images_as_near(trained, name, norm, eps):
    net, x, y = trained
    found = distances(net, norm, SearchAttack.__call__(FAB(norm=norm, steps=STEPS), net, x, y), x, y)
    # with an eps beyond any distance, theirs returns whatever it finds
    expected = distances(net, norm, theirs(net, norm, 1e3, x, y), x, y)
    assert found.isfinite().all()
    assert found.median() <= 1.02 * expected.median()
    assert (found <= 1.1 * expected).float().mean() >= 0.9
