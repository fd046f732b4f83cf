"""The confidence penalty and the penalty on activations."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import PGD
from lightning_advreg.penalties import ActivityL1, ConfidencePenalty


def test_confidence_by_the_formula():
    torch.manual_seed(0)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    p = logits.softmax(1)
    expected = -0.3 * -(p * p.log()).sum(1).mean()
    value = ConfidencePenalty(0.3)(logits)
    torch.testing.assert_close(value, expected)
    # d(-H)/dz_j = p_j (log p_j + H)
    entropy = -(p * p.log()).sum(1, keepdim=True)
    torch.testing.assert_close(torch.autograd.grad(value, logits)[0], 0.3 / 4 * p * (p.log() + entropy))


def test_confidence_is_finite_where_the_network_is_sure():
    logits = torch.tensor([[1e4, 0.0], [0.0, 0.0]], requires_grad=True)
    value = ConfidencePenalty(1.0)(logits)
    value.backward()
    assert value.item() == pytest.approx(-torch.log(torch.tensor(2.0)).item() / 2)
    assert logits.grad.isfinite().all()


def test_confidence_in_half_precision_is_computed_in_float32():
    assert ConfidencePenalty(1.0)(torch.zeros(2, 10).bfloat16()).dtype == torch.float32


def net():
    torch.manual_seed(0)
    layers = {"a": nn.Linear(3, 4), "relu": nn.ReLU(inplace=True), "b": nn.Linear(4, 2), "tanh": nn.Tanh()}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model.double()


X = torch.rand(5, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 0.5


def activity(network, *images, layers, weight=1.0):
    penalty = ActivityL1(weight, layers=layers)
    with penalty.watching(network) as watched:
        for x in images:
            network(x)
    return penalty(watched)


def test_the_mean_absolute_activation_summed_over_layers_with_its_gradient():
    network = net()
    value = activity(network, X, layers=["a", "tanh"], weight=0.5)
    hidden = network.a(X)
    expected = 0.5 * (hidden.abs().mean() + network.tanh(network.b(hidden.relu())).abs().mean())
    torch.testing.assert_close(value, expected)
    parameters = list(network.parameters())
    # through a layer that works in place
    for ours, theirs in zip(
        torch.autograd.grad(value, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_passes_are_averaged():
    network = net()
    both = activity(network, X, 2 * X, layers="b")
    torch.testing.assert_close(both, (activity(network, X, layers="b") + activity(network, 2 * X, layers="b")) / 2)


def test_passes_of_attacks_and_without_gradients_do_not_count():
    network = net()
    penalty, x = ActivityL1(1.0, layers="*"), X + 0.5
    with penalty.watching(network) as watched:
        with torch.no_grad():
            network(x)
        PGD(eps=0.1, steps=2)(network, x, torch.zeros(5, dtype=torch.int64))
        network(x)
    torch.testing.assert_close(penalty(watched), activity(network, x, layers="*"))


def test_hooks_are_gone_afterwards_also_after_an_error():
    network = net()
    with pytest.raises(RuntimeError, match="stop"), ActivityL1(1.0, layers="*").watching(network):
        assert any(layer._forward_hooks for layer in network.modules())
        raise RuntimeError("stop")
    assert not any(layer._forward_hooks for layer in network.modules())


def test_a_watched_pass_in_bfloat16():
    network = net().float()
    with torch.autocast("cpu", torch.bfloat16):
        value = activity(network, X.float(), layers="a")
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, activity(network, X.float(), layers="a"), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("rel", ValueError, r"layers: 'rel' matches no layer of Sequential; the nearest names are 'relu'"),
        (["a", "c*"], ValueError, r"layers: 'c\*' matches no layer"),
        ([], ValueError, "layers must name something"),
        (None, TypeError, "layers must name the layers to watch"),
        (3, TypeError, "layers must be a name such as"),
    ],
)
def test_layers_that_name_nothing_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        ActivityL1(1.0, layers=layers).bound(net())


def test_layers_that_did_not_run_are_an_error():
    network = net()
    with pytest.raises(RuntimeError, match="saw none of its layers at work"):
        activity(network, layers="a")


def test_a_layer_with_several_outputs_is_an_error():
    network = nn.Sequential(nn.LSTM(3, 2))
    with pytest.raises(TypeError, match="the layer '0' gives tuple rather than one tensor"):
        activity(network, torch.rand(2, 3), layers="0")
