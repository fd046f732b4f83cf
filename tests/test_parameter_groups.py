"""Groups of parameters with and without weight decay."""

from functools import partial

import pytest
import torch
from torch import nn

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.networks import ResNet18
from lightning_advreg.parameters import parameter_groups
from lightning_advreg.penalties import L2
from tests.modules import parts


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.attention = nn.MultiheadAttention(3, 1)
        self.norm = nn.LayerNorm((4, 3))
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight
        self.position = nn.Parameter(torch.zeros(1, 4, 3))
        self.attention.in_proj_weight.requires_grad_(False)


def names(network, group):
    held = {id(p) for p in group["params"]}
    return [name for name, p in network.named_parameters() if id(p) in held]


@pytest.mark.parametrize("build", [Tied, lambda: ResNet18(width=4), lambda: nn.Linear(2, 2, bias=False)])
def test_each_parameter_is_in_one_group(build):
    network = build()
    held = [id(p) for group in parameter_groups(network, 0.1) for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in network.parameters())


def test_biases_and_scales_do_not_decay():
    network = Tied()
    decaying, others = parameter_groups(network, "1/2")
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert names(network, decaying) == [
        "position",
        "embedding.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    ]
    decaying, _ = parameter_groups(network, exempt=["position", "head.*"])
    assert "weight_decay" not in decaying
    assert names(network, decaying) == ["attention.in_proj_weight", "attention.out_proj.weight"]


def test_the_optimizers_own_decay_acts_on_weights_alone():
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(parameter_groups(network), lr=1.0, weight_decay=0.5)
    before = network.weight.detach().clone(), network.bias.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert network.weight.equal(0.5 * before[0]) and network.bias.equal(before[1])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"^weight_decay must be at least 0, got -1"):
        parameter_groups(Tied(), -1)
    with pytest.raises(ValueError, match=r"^pattern 'haed.\*' matches no parameter of Tied; the nearest names are"):
        parameter_groups(Tied(), 0.1, exempt="haed.*")


@pytest.mark.parametrize("kind", [RegularizedClassifier, AdversarialClassifier])
def test_as_an_argument_of_the_classifiers(kind):
    sgd = partial(torch.optim.SGD, lr=0.1, weight_decay=5e-4)
    model = kind(parts.conv(norm="batch"), optimizer=sgd, decay_biases=False)
    decays = {id(p): g["weight_decay"] for g in model.configure_optimizers().param_groups for p in g["params"]}
    assert len(decays) == len(list(model.network.parameters()))
    assert all(decays[id(p)] == (5e-4 if p.dim() > 1 else 0) for p in model.network.parameters())
    assert model.hparams["decay_biases"] is False
    assert len(kind(parts.conv(), optimizer=sgd).configure_optimizers().param_groups) == 1


def test_squares_count_twice_only_where_both_act():
    sgd = partial(torch.optim.SGD, lr=0.1, weight_decay=5e-4)
    model = RegularizedClassifier(parts.conv(), [L2(0.1)], optimizer=sgd, decay_biases=False)
    with pytest.warns(UserWarning, match=r"squared weights count twice: in penalty 'l2' .*weight_decay=0.0005"):
        model.configure_optimizers()


def test_a_penalty_on_biases_alone_counts_nothing_twice(recwarn):
    sgd = partial(torch.optim.SGD, lr=0.1, weight_decay=5e-4)
    penalties = [L2(0.1, include_biases=True, pattern="*.bias")]
    RegularizedClassifier(parts.conv(), penalties, optimizer=sgd, decay_biases=False).configure_optimizers()
    assert not [w for w in recwarn if "count twice" in str(w.message)]
