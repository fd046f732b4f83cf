"""Networks with spectral norm are pickled, and are themselves again."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lightning_advreg.networks import MLPDiscriminator, SNGANDiscriminator, SNGANResNetDiscriminator
from lightning_advreg.networks.parametrized import PicklesParametrizations


class Product(nn.Module):
    """A weight that is the product of two originals."""

    def forward(self, a, b):
        return a * b

    def right_inverse(self, weight):
        return weight / 2, torch.full_like(weight, 2.0)


class Free(PicklesParametrizations):
    """Chains whose originals are several, or that compute when they are registered, around another such network."""

    def __init__(self):
        super().__init__()
        self.layer = parametrize.register_parametrization(nn.Linear(4, 4), "weight", Product())
        self.orthogonal = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
        self.again, self.inner = self.layer, MLPDiscriminator((1, 2, 2), hidden=(3,), dropout=0, spectral_norm=True)

    def forward(self, x):
        return self.inner(self.again(self.orthogonal(self.layer(x))).sigmoid().view(-1, 1, 2, 2))


def through_pickle(network):
    return pickle.loads(pickle.dumps(network))


def through_a_file(network):
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


BUILDERS = {
    "mlp": (lambda: MLPDiscriminator((1, 2, 2), hidden=(8,), dropout=0, spectral_norm=True, num_classes=3), (1, 2, 2)),
    "sngan": (lambda: SNGANDiscriminator((1, 16, 16), width=8), (1, 16, 16)),
    "resnet": (lambda: SNGANResNetDiscriminator((1, 16, 16), width=4), (1, 16, 16)),
    "free": (Free, (4,)),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("way", [through_pickle, through_a_file, copy.deepcopy], ids=lambda way: way.__name__)
def test_a_copy_is_the_same_and_goes_on_alike(name, way):
    build, shape = BUILDERS[name]
    network, x = build(), torch.rand(5, *shape)
    given = (x, torch.tensor([0, 1, 2, 0, 1])) if name == "mlp" else (x,)
    network(*given)
    twin = way(network)
    assert list(twin.state_dict()) == list(network.state_dict())
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in network.named_parameters()]
    assert [type(m).__name__ for m in twin.modules()] == [type(m).__name__ for m in network.modules()]
    for a, b in zip(network.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()
    # a pass in training moves vectors and gives gradients, in both alike and in each by itself
    before = [value.clone() for value in twin.state_dict().values()]
    network(*given).sum().backward()
    assert all(torch.equal(*pair) for pair in zip(before, twin.state_dict().values(), strict=True))
    twin(*given).sum().backward()
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    for a, b in zip(network.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_original_is_left_alone_and_copies_of_copies_work():
    network = SNGANDiscriminator((1, 16, 16), width=8).eval()
    x, classes = torch.rand(2, 1, 16, 16), [type(m) for m in network.modules()]
    y = network(x)
    twin = through_pickle(copy.deepcopy(through_pickle(network)))
    assert [type(m) for m in network.modules()] == classes
    assert torch.equal(network(x), y) and torch.equal(twin(x), y)
    assert not twin.training
    layer = twin.layers[0]
    assert parametrize.is_parametrized(layer, "weight") and "weight" not in dict(layer.named_buffers())
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is nn.Conv2d
