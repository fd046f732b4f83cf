import pytest
from torch import nn

from lightning_advreg.parameters import weights


def names(module, **arguments):
    return [name for name, _ in weights(module, **arguments)]


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_matrices_and_kernels_each_once(tied):
    net = nn.Sequential(
        nn.Embedding(5, 4), nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.PReLU(), nn.LayerNorm(4), nn.Linear(4, 5)
    )
    if tied:
        net[5].weight = net[0].weight
    head = [] if tied else ["5.weight"]
    assert names(net) == ["0.weight", "1.weight", *head]
    everything = [name for name, _ in net.named_parameters()]
    assert names(net, include_biases=True) == everything
    assert len(everything) == 10 - tied


def test_frozen_parameters_are_left_out():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(False)
    assert names(net) == ["1.weight"]
    assert names(net, include_biases=True) == ["1.weight", "1.bias"]


def test_the_scales_of_a_layer_norm_are_no_weights_whatever_their_shape():
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.LayerNorm((3, 4, 4)))
    assert names(net) == ["0.weight"]
    assert names(net, include_biases=True) == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_the_parameters_themselves_are_given():
    layer = nn.Linear(2, 2)
    assert next(weights(layer))[1] is layer.weight
