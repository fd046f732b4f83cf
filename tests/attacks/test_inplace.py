"""Activations that overwrite their input, where nobody else reads it."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks.acceleration import Acceleration, search_model
from lightning_advreg.attacks.inplace import use_inplace_activations
from lightning_advreg.networks import MNISTConvNet, PreActResNet18, ResNet18


class Rectified(nn.Module):
    """A linear layer, then something with a ReLU, then a linear layer."""

    def __init__(self, middle):
        super().__init__()
        self.first, self.relu, self.last = nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)
        self.middle = middle

    def forward(self, x):
        return self.last(self.middle(self, self.first(x.flatten(1))))


def search_of(net, x):
    search = search_model(net.eval(), Acceleration(), x)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(search(leaf).square().sum(), leaf)
    own = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(own).square().sum(), own)
    return search, grad, expected


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (MNISTConvNet(image_size=8), (1, 8, 8)),
        (ResNet18(width=32), (3, 16, 16)),
        (PreActResNet18(width=32), (3, 16, 16)),
        (Rectified(lambda net, z: net.relu(z)), (3, 2, 2)),
    ],
    ids=["mnist", "resnet", "preact", "linear"],
)
def test_networks_keep_their_function(net, shape):
    net.double()  # in float32 an activation near 0 may fall on the other side
    x = torch.rand(4, *shape, dtype=torch.float64)
    search, grad, expected = search_of(net, x)
    assert search.acceleration.inplace_activations
    relus = [layer for layer in search._fast.modules() if isinstance(layer, nn.ReLU)]
    assert relus
    assert all(layer.inplace for layer in relus)
    assert not any(layer.inplace for layer in net.modules() if isinstance(layer, nn.ReLU))
    torch.testing.assert_close(search(x), net(x))
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize(
    "middle",
    [
        # the value before the activation is used as well
        lambda net, z: net.relu(z) + z,
        # nothing changes in the forward pass, but the gradient of the first needs its output
        lambda net, z: net.relu(z.sigmoid()),
    ],
    ids=["read twice", "saved for the gradient"],
)
def test_it_is_left_out_where_the_input_is_needed(middle):
    net, x = Rectified(middle), torch.rand(4, 3, 2, 2)
    search, grad, expected = search_of(net, x)
    assert not search.exact
    assert not search.acceleration.inplace_activations
    assert search.acceleration.fold_batchnorm
    torch.testing.assert_close(search(x), net(x))
    torch.testing.assert_close(grad, expected)


def test_gradients_through_winograd_and_patches_in_float32():
    net = nn.Sequential(
        nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU(), nn.Flatten()
    )
    search, grad, expected = search_of(net, torch.rand(4, 3, 12, 12))
    assert search.acceleration == Acceleration()
    assert (grad - expected).norm() < 1e-3 * expected.norm()


def test_only_a_plain_relu_is_changed():
    class Own(nn.ReLU):
        pass

    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    net = nn.Sequential(nn.ReLU(), Own(), nn.LeakyReLU(), hooked)
    use_inplace_activations(net)
    assert [layer.inplace for layer in net] == [True, False, False, False]
