"""Trained networks that the comparisons with other libraries share: some images withstand an attack, some do not."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def digits():
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target)


def train(net, x, y, *, eps, epochs, batch_size=100, lr=5e-3):
    """Train against FGSM from a random start, written out here so that no attack under test is involved."""
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for epoch in range(epochs):
        for rows in torch.randperm(len(x)).split(batch_size):
            start = (x[rows] + eps * (2 * torch.rand_like(x[rows]) - 1)).clamp(0, 1).requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(net(start), y[rows]), start)
            x_adv = torch.min(torch.max(start + 1.25 * eps * grad.sign(), x[rows] - eps), x[rows] + eps).clamp(0, 1)
            optimizer.zero_grad()
            F.cross_entropy(net(x_adv.detach()), y[rows]).backward()
            optimizer.step()
        if epoch == epochs * 2 // 3:
            optimizer.param_groups[0]["lr"] = lr / 5
    return net.eval()


@pytest.fixture(scope="session")
def digits_net():
    """A small CNN on the digits of scikit-learn, (N, 1, 8, 8), trained at Linf 0.1: 10 classes.

    About half of its batch withstands Linf 0.15, and about 40 % L2 0.75.
    """
    x, y = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, 10),
        )
        return train(net, x[:1200], y[:1200], eps=0.1, epochs=12)


@pytest.fixture(scope="session")
def digits_batch(digits_net):
    """The first 200 test digits that the network knows, with their labels."""
    return _known(digits_net, *(part[1200:] for part in digits()), count=200)


def cifar_sized_digits():
    x, y = digits()
    generator = torch.Generator().manual_seed(0)
    tint = 0.5 + 0.5 * torch.rand(len(x), 3, 1, 1, generator=generator)
    large = F.interpolate(x, size=32, mode="bilinear", align_corners=False) * tint
    return (large + 0.1 * torch.randn(large.shape, generator=generator)).clamp(0, 1), y


@pytest.fixture(scope="session")
def cifar_sized_net():
    """A small CNN with BatchNorm on tinted, noisy digits, (N, 3, 32, 32), trained at Linf 8/255: 10 classes.

    About 40 % of its batch withstands Linf 24/255, and about half L2 2.5.
    """
    x, y = cifar_sized_digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, 10),
        )
        return train(net, x[:1200], y[:1200], eps=8 / 255, epochs=6)


@pytest.fixture(scope="session")
def cifar_sized_batch(cifar_sized_net):
    """The first 100 test images that the network knows, with their labels."""
    return _known(cifar_sized_net, *(part[1200:] for part in cifar_sized_digits()), count=100)


def _known(net, x, y, *, count):
    with torch.no_grad():
        rows = (net(x).argmax(1) == y).nonzero().squeeze(1)[:count]
    assert len(rows) == count
    return x[rows], y[rows]
