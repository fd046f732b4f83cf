"""Which parameters each weight penalty acts on, whatever it computes."""

import pytest
import torch
from torch import nn

from .nets import MATRICES, TAKES_BIASES, WEIGHT_PENALTIES, gradients, net, started

each = pytest.mark.parametrize("name", WEIGHT_PENALTIES)


@each
def test_biases_and_scales_are_left_out(name):
    network = net()
    assert sorted(gradients(started(name, network), network)) == MATRICES


@pytest.mark.parametrize("name", TAKES_BIASES)
def test_biases_and_scales_are_taken_in_when_asked_for(name):
    network = net()
    penalty = started(name, network, include_biases=True)
    assert gradients(penalty, network).keys() == dict(network.named_parameters()).keys()


@each
@pytest.mark.parametrize(
    ("pattern", "expected"), [("3.*", ["3.weight"]), (["0.*", "5.weight"], ["0.weight", "5.weight"])]
)
def test_patterns_select(name, pattern, expected):
    network = net()
    penalty = started(name, network, pattern=pattern)
    assert sorted(gradients(penalty, network)) == expected
    single = sum(started(name, part, pattern=one)(part) for part, one in zip([net()] * 2, expected, strict=False))
    if name != "l2sp":
        torch.testing.assert_close(penalty(network.eval()), single, rtol=1e-4, atol=0)


@each
def test_a_pattern_that_matches_nothing_is_refused_when_the_penalty_meets_the_network(name):
    with pytest.raises(ValueError, match=r"pattern 'feature.\*' matches no parameter of Sequential"):
        WEIGHT_PENALTIES[name](pattern="feature.*").bound(net())


@each
def test_a_pattern_is_text(name):
    with pytest.raises(TypeError, match="pattern must be a name such as"):
        WEIGHT_PENALTIES[name](pattern=3)


@each
def test_frozen_weights_are_left_out_and_come_back(name):
    network = net().eval()
    network[0].weight.requires_grad_(False)
    penalty = started(name, network)
    assert sorted(gradients(penalty, network)) == MATRICES[1:]
    frozen = penalty(network)
    network[0].weight.requires_grad_(True)
    assert sorted(gradients(penalty, network)) == MATRICES
    assert penalty(network) > frozen


@each
def test_tied_weights_count_once(name):
    embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    single = started(name, embedding)(embedding)
    embedding.weight.data -= 0.25 if name == "l2sp" else 0
    head.weight = embedding.weight
    both = nn.Sequential(embedding, head)
    torch.testing.assert_close(started(name, both)(both), single)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_value_is_on_the_device_of_the_weights_in_float32_at_least(name, dtype):
    for module in (nn.Linear(3, 2), nn.BatchNorm1d(3)):
        penalty = started(name, module.to(dtype))
        value = penalty(module)
        assert (
            value.dtype == torch.promote_types(dtype, torch.float32)
            and value.shape == ()
            and value.device.type == "cpu"
        )
        if isinstance(penalty, nn.Module):
            penalty.to("meta")
        assert penalty(module.to("meta")).device.type == "meta"


@each
@pytest.mark.parametrize("module", [nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(2, 2).requires_grad_(False)])
def test_a_network_without_weights_costs_nothing(name, module):
    value = WEIGHT_PENALTIES[name]()(module)
    assert value.shape == () and value.item() == 0
    loss = torch.ones((), requires_grad=True) + value
    loss.backward()


@each
def test_the_gradient_is_scaled_by_what_comes_after(name):
    network = net().eval()
    penalty = started(name, network)
    plain = gradients(penalty, network)
    doubled = gradients(lambda n: -2 * penalty(n), network)
    for key, grad in plain.items():
        torch.testing.assert_close(doubled[key], -2 * grad)


@each
def test_values_in_half_precision_are_near_those_in_float32(name):
    network = net().float().eval()
    wide = started(name, network)(network)
    half = net().bfloat16().eval()
    torch.testing.assert_close(started(name, half)(half).float(), wide, rtol=0.03, atol=0)


@each
def test_float16_weights_of_any_number_have_a_finite_value_and_gradients_of_their_own_dtype(name):
    # 90,000 weights of 3/4: their sum exceeds what float16 can hold
    layer = nn.Linear(300, 300, bias=False).half()
    nn.init.constant_(layer.weight, 0.75)
    penalty = started(name, layer)
    value = penalty(layer)
    assert value.isfinite() and value > 0
    value.backward()
    assert layer.weight.grad.dtype == torch.float16 and layer.weight.grad.isfinite().all()
