import pytest
import torch
from torch import nn

from lightning_advreg.constraints import Budget


@pytest.fixture
def net():
    # 3*1*9 + 3 = 30, BatchNorm 6, 12*4 + 4 = 52, LayerNorm 8, 4*2 = 8
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.BatchNorm2d(3),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.LayerNorm(4),
        nn.Linear(4, 2, bias=False),
    )


def test_usage_counts_every_trainable_value_and_layers_with_weights(net):
    assert Budget(parameters=1).usage(net) == (104, 3)
    assert Budget(layers=1).usage(nn.Sequential(nn.Embedding(5, 2), nn.LayerNorm((3, 4)), nn.ReLU())) == (34, 1)
    net[3].weight.requires_grad_(False)
    assert Budget(parameters=1).usage(net) == (104 - 48, 3)


def test_nested_modules_count_once_at_the_layer_that_holds_the_weight(net):
    assert Budget(layers=1).usage(nn.ModuleDict({"net": nn.Sequential(net)})) == (104, 3)
    assert Budget(layers=1).usage(nn.Sequential(net, net)) == (104, 3)


def test_shared_parameters_count_once():
    embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
    head.weight = embedding.weight
    assert Budget(parameters=1).usage(nn.Sequential(embedding, head)).parameters == 15


def test_layers_that_hold_their_weight_in_a_parametrisation_count():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
    assert Budget(layers=1).usage(nn.Sequential(layer)) == (16, 1)


def test_a_network_at_the_limit_passes(net):
    budget = Budget(parameters=104, layers=3)
    budget.check(net)
    before = [p.detach().clone() for p in net.parameters()]
    budget.project_(net)
    assert all(torch.equal(p, q) for p, q in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"parameters": 103},
            r"^critic exceeds its budget: 104 parameters used, 103 allowed; use a smaller network or",
        ),
        ({"layers": 2}, r"^critic exceeds its budget: 3 layers used, 2 allowed; use a smaller network"),
        (
            {"parameters": 1, "layers": 1},
            r"104 parameters used, 1 allowed; 3 layers used, 1 allowed; use a smaller network or raise the limit",
        ),
        ({"parameters": 10, "layers": 3}, r"budget: 104 parameters used, 10 allowed; use"),
    ],
)
def test_a_network_over_the_limit_is_refused(net, limits, message):
    with pytest.raises(ValueError, match=message):
        Budget(**limits).check(net, "critic")


def test_report_names_the_limits_there_are(net):
    assert Budget(parameters=2000, layers=5).report(net) == "parameters 104 / 2,000, layers 3 / 5"
    assert Budget(layers=5).report(net) == "layers 3 / 5"


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="a Budget needs a limit: give parameters, layers or both"):
        Budget()
    with pytest.raises(ValueError, match="parameters must be at least 1, got 0"):
        Budget(parameters=0)
    with pytest.raises(ValueError, match="layers must be at least 1, got -2"):
        Budget(parameters=5, layers=-2)
