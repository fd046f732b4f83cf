"""Our attacks against those of torchattacks, pixel by pixel."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM, PGD

torchattacks = pytest.importorskip("torchattacks")

LINF = {"eps": 8 / 255, "step_size": 2 / 255, "steps": 10}
L2 = {"norm": "l2", "eps": 0.5, "step_size": 0.1, "steps": 10}


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.Softplus(),  # smooth, so that rounding cannot flip the sign of a gradient at a kink
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 16, 10),
    )
    model(torch.rand(32, 3, 8, 8))
    nn.init.normal_(model[5].weight)  # logits far enough apart for an attack to gain something
    # double precision: in single, the two orders of summation disagree about gradients near zero
    return model.double().eval()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    x = torch.rand(16, 3, 8, 8).double()
    x[0], x[1] = 0, 1
    return x, torch.arange(16) % 10


def mean_loss(net, x, y):
    with torch.no_grad():
        return nn.functional.cross_entropy(net(x), y).item()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (FGSM(eps="8/255"), lambda net: torchattacks.FGSM(net, eps=8 / 255)),
        (
            PGD(**LINF, random_start=False),
            lambda net: torchattacks.PGD(net, eps=8 / 255, alpha=2 / 255, steps=10, random_start=False),
        ),
        (
            PGD(**L2, random_start=False),
            lambda net: torchattacks.PGDL2(net, eps=0.5, alpha=0.1, steps=10, random_start=False),
        ),
    ],
    ids=["fgsm", "pgd", "pgd-l2"],
)
def test_equal_pixel_by_pixel_from_the_image_itself(net, batch, ours, theirs):
    x, y = batch
    x_adv = ours(net, x, y)
    torch.testing.assert_close(x_adv, theirs(net)(x, y), atol=1e-6, rtol=0)
    assert mean_loss(net, x_adv, y) > mean_loss(net, x, y)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (PGD(**LINF), lambda net: torchattacks.PGD(net, eps=8 / 255, alpha=2 / 255, steps=10, random_start=True)),
        (PGD(**L2), lambda net: torchattacks.PGDL2(net, eps=0.5, alpha=0.1, steps=10, random_start=True)),
    ],
    ids=["pgd", "pgd-l2"],
)
def test_reach_a_similar_loss_from_a_random_start(net, batch, ours, theirs):
    x, y = batch
    clean, reached = mean_loss(net, x, y), mean_loss(net, ours(net, x, y), y)
    expected = mean_loss(net, theirs(net)(x, y), y)
    assert reached - clean == pytest.approx(expected - clean, rel=0.05)
    assert reached - clean > 0.1


def test_equal_when_targeted(net, batch):
    x, y = batch
    target = (y + 3) % 10
    theirs = torchattacks.PGD(net, eps=8 / 255, alpha=2 / 255, steps=10, random_start=False)
    theirs.set_mode_targeted_by_label(quiet=True)
    ours = PGD(**LINF, random_start=False, targeted=True)
    torch.testing.assert_close(ours(net, x, target), theirs(x, target), atol=1e-6, rtol=0)
