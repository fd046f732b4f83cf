"""APGD against torchattacks, and PGD against foolbox: as many images fall, at equal budgets."""

import pytest
import torch

from lightning_advreg.attacks import PGD
from lightning_advreg.attacks.apgd import APGD

torchattacks = pytest.importorskip("torchattacks")
foolbox = pytest.importorskip("foolbox")

EPS = {"digits": {"linf": 0.15, "l2": 0.7}, "cifar_sized": {"linf": 20 / 255, "l2": 2.0}}


@pytest.fixture(params=EPS)
def case(request):
    net, (x, y) = (request.getfixturevalue(f"{request.param}_{kind}") for kind in ("net", "batch"))
    count, steps = (100, 100) if request.param == "digits" else (40, 40)
    return net, x[:count], y[:count], EPS[request.param], steps


def robust(net, x_adv, y):
    with torch.no_grad():
        accuracy = (net(x_adv).argmax(1) == y).double().mean().item()
    assert 0 < accuracy < 1
    return accuracy


STARTS = 5


def allowed(y):
    # half a point, and half an image for what a random start decides
    return 0.005 + 0.5 / len(y) + 1e-9


@pytest.mark.parametrize(("norm", "loss"), [("linf", "ce"), ("l2", "ce"), ("linf", "dlr")])
def test_apgd(case, norm, loss):
    net, x, y, eps, steps = case
    theirs = torchattacks.APGD(net, norm=norm.capitalize(), eps=eps[norm], steps=steps, loss=loss)
    ours = APGD(norm=norm, eps=eps[norm], steps=steps, loss=loss)
    difference = robust(net, ours(net, x, y), y) - robust(net, theirs(x, y), y)
    assert difference <= allowed(y)
    # nor do we claim much more than there is to find
    assert difference >= -0.03


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_targeted(digits_net, digits_batch, norm):
    x, y = (part[:40] for part in digits_batch)
    eps = EPS["digits"][norm]
    theirs = torchattacks.APGDT(digits_net, norm=norm.capitalize(), eps=eps, steps=30, n_classes=10)
    ours = APGD(norm=norm, eps=eps, steps=30, loss="dlr", targets=9)
    assert robust(digits_net, ours(digits_net, x, y), y) <= robust(digits_net, theirs(x, y), y) + allowed(y)


@pytest.mark.parametrize("stop_at_success", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd(case, norm, stop_at_success):
    net, x, y, eps, _ = case
    reference = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    wrapped = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    left = {"ours": 0.0, "theirs": 0.0}
    # the mean of several random starts: one alone decides an image or two
    for seed in range(STARTS):
        ours = PGD(
            norm=norm, eps=eps[norm], step_size=eps[norm] / 8, steps=20, stop_at_success=stop_at_success, seed=seed
        )
        left["ours"] += robust(net, ours(net, x, y), y) / STARTS
        torch.manual_seed(seed)
        theirs = reference(abs_stepsize=eps[norm] / 8, steps=20)(wrapped, x, y, epsilons=eps[norm])[1]
        left["theirs"] += robust(net, theirs, y) / STARTS
    # foolbox starts further out, which costs it steps in L2
    assert left["ours"] <= left["theirs"] + allowed(y)


def test_l1_apgd_beats_sparse_descent(digits_net, digits_batch):
    x, y = (part[:100] for part in digits_batch)
    wrapped = foolbox.PyTorchModel(digits_net, bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.SparseL1DescentAttack(steps=100)(wrapped, x, y, epsilons=2.0)[1]
    ours = APGD(norm="l1", eps=2.0, steps=100)(digits_net, x, y)
    assert robust(digits_net, ours, y) <= robust(digits_net, theirs, y) - 0.05
