"""The weights that L2-SP pulls back to: which they are, and that they stay."""

import copy

import pytest
import torch
from torch import nn

from lightning_advreg.penalties import L2SP

from .nets import MATRICES, gradients, net


def moved():
    network, penalty = net(), L2SP(0.3)
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    penalty.begin_(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    return network, penalty, start


def test_value_and_gradient_by_the_formula():
    network, penalty, start = moved()
    offsets = {name: p.detach() - start[name] for name, p in network.named_parameters() if name in MATRICES}
    expected = 0.15 * sum(offset.square().sum() for offset in offsets.values())
    torch.testing.assert_close(penalty(network).detach(), expected)
    for name, grad in gradients(penalty, network).items():
        torch.testing.assert_close(grad, 0.3 * offsets[name])


def test_it_begins_once():
    network, penalty, _ = moved()
    value = penalty(network)
    penalty.begin_(network)
    assert torch.equal(penalty(network), value) and value > 0


def test_the_first_call_begins():
    network, penalty = net(), L2SP(0.3)
    assert penalty(network).item() == 0
    network[3].weight.data += 1
    assert penalty(network).item() == pytest.approx(0.15 * 48)


def test_the_start_is_no_view_of_the_weights():
    network, penalty = net(), L2SP(1.0)
    penalty.begin_(network)
    with torch.no_grad():
        network[0].weight.zero_()
    assert penalty(network) > 0


def test_the_state_dict_holds_the_start_for_a_new_penalty():
    network, penalty, _ = moved()
    for fresh in (L2SP(0.3), L2SP(0.3).bound(net())):
        fresh.load_state_dict(penalty.state_dict())
        fresh.begin_(network)
        assert torch.equal(fresh(network), penalty(network))


def test_each_network_gets_a_state_of_its_own():
    shared = L2SP(1.0)
    networks = [nn.Linear(2, 2), nn.Linear(3, 3)]
    penalties = [shared.bound(network) for network in networks]
    for penalty, network in zip(penalties, networks, strict=True):
        assert penalty(network).item() == 0
    assert list(shared.state_dict()) == ["begun"]


def test_weights_loaded_before_training_are_the_start():
    network = net()
    penalty = L2SP(1.0).bound(network)
    with torch.no_grad():
        network[0].weight.add_(1)
    penalty.begin_(network)
    assert penalty(network).item() == 0


def test_another_network_is_refused():
    _, penalty, _ = moved()
    other = nn.Sequential(nn.Linear(2, 2))
    other.add_module("extra", nn.Linear(2, 2))
    for use in (penalty, penalty.bound):
        with pytest.raises(ValueError, match=r"L2SP remembers nothing of the parameter '(0|extra)\.weight'"):
            use(other)


def test_copies_go_on_with_the_same_start():
    network, penalty, _ = moved()
    for twin in (copy.deepcopy(penalty), penalty.bound(network)):
        assert torch.equal(twin(network), penalty(network))


def test_arguments_are_remembered_for_checkpoints():
    assert L2SP("1e-2", pattern="0.*").init_args == {"weight": "1e-2", "pattern": "0.*"}
    with pytest.raises(ValueError, match="weight must be at least 0, got -1"):
        L2SP(-1)
