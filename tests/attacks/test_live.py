"""A copy of a network in training that is faster to attack, and follows the weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_advreg.attacks import FGSM, PGD, live_copy, stand_in, standing_in
from lightning_advreg.attacks.live import LiveConv2d
from lightning_advreg.attacks.winograd import WinogradConv2d
from lightning_advreg.networks import MNISTConvNet, PreActResNet18, ResNet18


class Residual(nn.Module):
    """A convolution whose output is read by a BatchNorm and by a sum, so that it must not be folded."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x):
        z = self.conv(x)
        return self.head((z + self.norm(z).relu()).mean((2, 3)))


def step(net, x, y):
    """Train for one step: weights and statistics move."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    F.cross_entropy(net(x), y).backward()
    optimizer.step()
    net.zero_grad()


def both(net, copy, x):
    """Give logits and input gradients of network and copy in eval mode."""
    modes = [module.training for module in net.modules()]
    net.eval()
    results = []
    for model in (net, copy):
        leaf = x.clone().requires_grad_()
        logits = model(leaf)
        results.append((logits.detach(), torch.autograd.grad(logits.logsumexp(1).sum(), leaf)[0]))
    for module, mode in zip(net.modules(), modes, strict=True):
        module.training = mode
    return results


NETWORKS = [
    (lambda: MNISTConvNet(image_size=8, norm="batch", activation="softplus"), (1, 8, 8)),
    (lambda: ResNet18(width=32, activation="softplus"), (3, 16, 16)),
    (lambda: PreActResNet18(width=32, activation="softplus"), (3, 16, 16)),
    (Residual, (3, 8, 8)),
]


@pytest.mark.parametrize(("make", "shape"), NETWORKS, ids=["mnist", "resnet", "preact", "residual"])
def test_it_gives_what_the_network_gives_also_after_steps(make, shape):
    torch.manual_seed(0)
    net, x, y = make().train(), torch.rand(8, *shape), torch.arange(8) % 3
    # made of a new network, whose BatchNorm is the identity, for which every fold looks right
    copy = live_copy(net, x)
    assert copy is not None
    for _ in range(3):
        (logits, gradient), (own, own_gradient) = both(net, copy, x)
        torch.testing.assert_close(own, logits, rtol=0, atol=1e-4 * logits.abs().max().item())
        assert (own_gradient - gradient).norm() < 1e-3 * gradient.norm()
        step(net, x, y)
        assert not torch.allclose(both(net, copy, x)[1][0], own, rtol=1e-3)


def test_batchnorm_is_folded_and_convolutions_are_fast_ones():
    net = ResNet18(width=32)
    copy = live_copy(net, torch.rand(2, 3, 16, 16))
    layers = list(copy.modules())
    copy(torch.rand(8, 3, 16, 16))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    live = [layer for layer in layers if isinstance(layer, LiveConv2d)]
    assert len(live) == 20
    assert sum(isinstance(layer._fast[0], WinogradConv2d) for layer in live) == 6
    assert all(layer.inplace for layer in layers if isinstance(layer, nn.ReLU))


def test_weights_are_shared_and_the_network_is_left_alone():
    net = ResNet18(width=32).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    copy = live_copy(net, torch.rand(2, 3, 16, 16))
    assert {p.data_ptr() for p in copy.parameters()} <= {p.data_ptr() for p in net.parameters()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())


def test_the_random_numbers_of_the_caller_stay():
    net = ResNet18(width=8)
    state = torch.get_rng_state()
    live_copy(net, torch.ones(2, 3, 16, 16))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_fold_is_made_once_per_change():
    conv, norm = nn.Conv2d(3, 4, 3).requires_grad_(False).eval(), nn.BatchNorm2d(4).requires_grad_(False).eval()
    live, x = LiveConv2d(conv, norm), torch.rand(2, 3, 8, 8)
    live(x)
    first = live._fast[0]
    live(x)
    assert live._fast[0] is first
    for tensor in (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.add_(0.5)
        torch.testing.assert_close(live(x), norm(conv(x)))
    conv.weight.data = torch.rand_like(conv.weight)
    torch.testing.assert_close(live(x), norm(conv(x)))


@pytest.mark.parametrize("attack", [PGD(eps=0.1, step_size=0.05, steps=3, seed=0), FGSM(eps=0.1)], ids=["pgd", "fgsm"])
def test_attacks_run_on_the_copy_and_find_the_same(attack):
    torch.manual_seed(0)
    net, x, y = MNISTConvNet(image_size=8).train(), torch.rand(8, 1, 8, 8), torch.arange(8)
    copy, calls = live_copy(net, x), []
    copy.register_forward_hook(lambda *_: calls.append(1))
    expected = attack(net, x, y)
    assert not calls
    with standing_in(net, copy):
        found = attack(net, x, y)
        assert stand_in(net, "eval") is copy
        # other networks and modes are attacked as they are
        assert stand_in(net, "train") is net
        assert stand_in(copy, "eval") is copy
        other = nn.Flatten()
        assert stand_in(other, "eval") is other
    assert len(calls) == getattr(attack, "steps", 1)
    # the sign of a gradient near 0 may differ
    assert (found - expected).abs().gt(1e-6).float().mean() < 0.01
    assert stand_in(net, "eval") is net
    assert all(p.requires_grad for p in net.parameters())
    with standing_in(net, None):
        assert stand_in(net, "eval") is net


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 3)

    def forward(self, x):
        if type(self.linear) is nn.Linear and getattr(self, "original", False):
            return self.linear(x.flatten(1))
        raise RuntimeError("not a copy")

    def __deepcopy__(self, memo):
        return Failing()


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double(),
        nn.Sequential(nn.Flatten()),
        Failing(),
        # random: never the same twice
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(12, 3),
            type("Noise", (nn.Module,), {"forward": lambda s, x: x + torch.rand(()) * 9})(),
        ),
    ],
    ids=["float64", "no weights", "not copied", "random"],
)
def test_networks_without_a_copy(net):
    net.original = True
    assert live_copy(net, torch.rand(4, 3, 2, 2)) is None
