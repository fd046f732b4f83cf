from collections import OrderedDict

import pytest
import torch
from torch import nn

from lightning_advreg.parameters import as_matrix, weights


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


def layers():
    return nn.Sequential(
        OrderedDict(features=nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), head=nn.Linear(2, 2))
    )


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, ["features.0.weight", "head.weight"]),
        ("features.*", ["features.0.weight"]),
        ("*.weight", ["features.0.weight", "head.weight"]),
        (["head.*", "features.0.weight"], ["features.0.weight", "head.weight"]),
        (("head.weigh?",), ["head.weight"]),
    ],
)
def test_patterns_select_weights_by_name(pattern, expected):
    assert names(layers(), pattern=pattern) == expected


def test_patterns_with_biases():
    assert names(layers(), pattern="features.*", include_biases=True) == [
        "features.0.weight",
        "features.0.bias",
        "features.1.weight",
        "features.1.bias",
    ]


def test_frozen_parameters_match_and_are_left_out_unless_asked_for():
    net = layers()
    net.features.requires_grad_(False)
    assert names(net, pattern="features.*") == []
    assert names(net, pattern="features.*", include_frozen=True) == ["features.0.weight"]
    assert names(net, include_frozen=True) == ["features.0.weight", "head.weight"]


def test_a_tied_weight_goes_by_each_of_its_names_and_comes_once():
    net = nn.Sequential(OrderedDict(embedding=nn.Embedding(3, 2), head=nn.Linear(2, 3, bias=False)))
    net.head.weight = net.embedding.weight
    assert names(net, pattern="head.*") == ["head.weight"]
    assert names(net, pattern=["head.*", "embedding.*"]) == ["embedding.weight"]


def test_patterns_match_a_compiled_network():
    assert names(torch.compile(layers()), pattern="features.*") == ["_orig_mod.features.0.weight"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("feature.*", r"pattern 'feature.\*' matches no parameter of Sequential; .* 'features.0.weight'"),
        (["head.*", "haed.weight"], "pattern 'haed.weight' matches no parameter .* 'head.weight'"),
        ("features", "must match the whole name"),
        ("head.bias", "matches biases and normalisation scales alone.*include_biases=True"),
        ([], "pattern must name something"),
        ("", "pattern must name something"),
    ],
)
def test_a_pattern_that_names_nothing_is_an_error(pattern, message):
    with pytest.raises(ValueError, match=message):
        names(layers(), pattern=pattern)


@pytest.mark.parametrize("pattern", [3, [3], {"head.*"}])
def test_a_pattern_is_text(pattern):
    with pytest.raises(TypeError, match="pattern must be a name such as"):
        names(layers(), pattern=pattern)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_row_of_the_matrix_makes_one_output_channel(groups):
    x = torch.rand(1, 4, 5, 5)
    for layer in (nn.Conv2d(4, 6, 3, groups=groups), nn.ConvTranspose2d(4, 6, 3, groups=groups)):
        before = layer(x)
        # the gradient says which entries of the weight row 4 consists of
        as_matrix(layer, "weight", layer.weight)[4].sum().backward()
        layer.weight.data += layer.weight.grad
        changed = (layer(x) != before).any(-1).any(-1).flatten().tolist()
        assert changed == [channel == 4 for channel in range(6)]


def test_a_vector_has_rows_of_one_entry():
    layer = nn.Linear(3, 2)
    assert as_matrix(layer, "bias", layer.bias).shape == (2, 1)
    assert as_matrix(layer, "weight", layer.weight).shape == (2, 3)
