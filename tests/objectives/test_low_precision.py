"""Objectives that compare two predictions, under autocast and where the network is sure of itself."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import PGD
from lightning_advreg.objectives import ALP, MART, TRADES

ATTACK = PGD(eps=0.1, step_size=0.03, steps=3, seed=0)


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    # statistics of training, so that eval and train modes differ
    model(torch.rand(32, 1, 6, 6))
    return model.train()


@pytest.mark.parametrize("objective", [ALP(), MART(), TRADES()], ids=repr)
def test_under_autocast(objective, net):
    torch.manual_seed(1)
    x, y = torch.rand(6, 1, 6, 6), torch.tensor([0, 1, 2, 3, 4, 0])
    exact = objective(net, x, y, ATTACK)
    with torch.autocast("cpu", torch.bfloat16):
        output = objective(net, x, y, ATTACK)
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=0.05)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("objective", "dtype"),
    [
        # the square of 2e4 lies beyond the range of float16
        *[(ALP(), dtype) for dtype in (torch.float32, torch.float16)],
        *[(objective, dtype) for objective in (MART(), TRADES()) for dtype in (torch.float32, torch.bfloat16)],
    ],
    ids=repr,
)
def test_a_saturated_network_gives_finite_loss_and_gradients(objective, dtype):
    logits = torch.tensor([[1e4, -1e4, -1e4], [-1e4, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    x, x_adv, y = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1), torch.tensor([0, 0])
    # the attack turns every prediction around
    output = objective.loss(lambda images: logits.flip(0) if images is x_adv else logits, x, y, (x_adv,))
    assert output.loss.isfinite()
    output.loss.backward()
    assert logits.grad.isfinite().all()
