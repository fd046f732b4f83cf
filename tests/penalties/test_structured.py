"""Values and gradients of the penalties on units and matrices, against the formulas written out."""

import math

import pytest
import torch
from torch import nn

from lightning_advreg.parameters import as_matrix
from lightning_advreg.penalties import GroupLasso, Orthogonality, SpectralNormPenalty

from .nets import MATRICES, WEIGHT_PENALTIES, gradients, net, normal


def rows_of(network, names=MATRICES):
    parameters = dict(network.named_parameters())
    return [as_matrix(network, name, parameters[name]) for name in names]


def group_lasso(matrices, eps=1e-12):
    return sum(math.sqrt(len(row)) * (row.square().sum() + eps).sqrt() for m in matrices for row in m)


def orthogonality(matrices, diagonal=True):
    total = 0
    for m in matrices:
        m = m.T if len(m) > m.shape[1] else m
        for i, a in enumerate(m):
            for j, b in enumerate(m):
                if diagonal or i != j:
                    total = total + ((a * b).sum() - float(i == j)) ** 2
    return total


def spectral(matrices):
    return sum(torch.linalg.svdvals(m)[0] ** 2 / 2 for m in matrices)


REFERENCES = {
    "group": (GroupLasso(0.3), group_lasso),
    "group_eps": (GroupLasso(0.3, eps="1/2"), lambda ms: group_lasso(ms, 0.5)),
    "orthogonality": (Orthogonality(0.3), orthogonality),
    "off_diagonal": (Orthogonality(0.3, diagonal=False), lambda ms: orthogonality(ms, diagonal=False)),
    "spectral": (SpectralNormPenalty(0.3, iterations=300), spectral),
}
GROUPED = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Conv2d(6, 4, 1), nn.Linear(3, 7))


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(
    ("network", "names"), [(net, MATRICES), (lambda: normal(GROUPED), ["0.weight", "1.weight", "2.weight"])],
    ids=["plain", "transposed"],
)  # fmt: skip
def test_value_and_gradient_equal_the_slow_reference(name, network, names):
    penalty, reference = REFERENCES[name]
    # the state of a spectral penalty is of one network
    penalty, network = penalty if not isinstance(penalty, nn.Module) else type(penalty)(0.3, iterations=300), network()
    expected = 0.3 * reference(rows_of(network, names))
    grads = dict(zip(names, torch.autograd.grad(expected, [dict(network.named_parameters())[n] for n in names]),
                     strict=True))  # fmt: skip
    torch.testing.assert_close(penalty(network), expected)
    found = gradients(penalty, network)
    assert found.keys() == grads.keys()
    for key, grad in grads.items():
        torch.testing.assert_close(found[key], grad, rtol=1e-6, atol=1e-7)


def test_biases_are_groups_of_their_own():
    network = net()
    both = GroupLasso(1.0, include_biases=True)(network)
    matrices = group_lasso([p.unsqueeze(1) if p.dim() == 1 else p.flatten(1) for p in network.parameters()])
    torch.testing.assert_close(both, matrices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_unit_at_zero_stays_there(dtype):
    layer = nn.Linear(3, 2).to(dtype)
    nn.init.zeros_(layer.weight)
    layer.weight.data[1] = 1
    found = gradients(GroupLasso(1.0), layer)["weight"]
    assert found[0].tolist() == [0, 0, 0]
    torch.testing.assert_close(found[1], torch.ones(3, dtype=dtype), rtol=1e-2, atol=0)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_orthonormal_rows_or_columns_cost_nothing(shape):
    layer = nn.Linear(*reversed(shape), bias=False).double()
    nn.init.orthogonal_(layer.weight)
    assert Orthogonality(1.0)(layer).item() == pytest.approx(0, abs=1e-20)
    layer.weight.data *= 2
    assert Orthogonality(1.0)(layer).item() == pytest.approx(9 * min(shape))
    assert Orthogonality(1.0, diagonal=False)(layer).item() == pytest.approx(0, abs=1e-20)


def test_one_power_iteration_a_step_finds_the_norm_and_follows_it():
    layer = normal(nn.Linear(30, 20, bias=False))
    penalty = SpectralNormPenalty(2.0)
    for step in range(60):
        value = penalty(layer)
        if step == 30:
            layer.weight.data += torch.rand_like(layer.weight)
    torch.testing.assert_close(value, torch.linalg.matrix_norm(layer.weight, 2) ** 2)


@pytest.mark.parametrize("how", ["eval", "no_grad"])
def test_the_estimate_rests_outside_of_training(how):
    layer = normal(nn.Linear(30, 20))
    penalty = SpectralNormPenalty(1.0)
    penalty(layer)
    before = penalty.memory("weight").clone()
    if how == "eval":
        penalty(layer.eval())
    else:
        with torch.no_grad():
            penalty(layer)
    assert torch.equal(penalty.memory("weight"), before)
    penalty(layer.train())
    assert not torch.equal(penalty.memory("weight"), before)


def test_a_layer_that_starts_at_zero_is_followed_once_it_moves():
    layer = nn.Linear(3, 3)
    nn.init.zeros_(layer.weight)
    penalty = SpectralNormPenalty(1.0)
    assert penalty(layer).item() == 0
    assert torch.equal(gradients(penalty, layer)["weight"], torch.zeros(3, 3))
    layer.weight.data += torch.diag(torch.tensor([1.0, 3.0, 2.0]))
    for _ in range(50):
        value = penalty(layer)
    assert value.item() == pytest.approx(4.5)


def test_the_spectral_penalty_draws_no_random_numbers():
    torch.manual_seed(0)
    SpectralNormPenalty(1.0)(nn.Linear(1, 1))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    nn.Linear(1, 1)
    assert torch.equal(torch.rand(1), drawn)


@pytest.mark.parametrize("name", WEIGHT_PENALTIES)
def test_weights_laid_out_channels_last_give_the_same(name):
    network = normal(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)))
    penalty = WEIGHT_PENALTIES[name]()
    penalty.begin_(network)
    with torch.no_grad():
        network[0].weight.mul_(1.5)
    before, grads = penalty(network.eval()), gradients(penalty, network)
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(penalty(network), before)
    after = gradients(penalty, network)
    for key, grad in grads.items():
        torch.testing.assert_close(after[key], grad, check_stride=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupLasso(-1), "weight must be at least 0, got -1"),
        (lambda: GroupLasso(1, eps=0), "eps must be above 0, got 0"),
        (lambda: Orthogonality("x"), "weight must be a number such as 0.03"),
        (lambda: SpectralNormPenalty(1, iterations=0), "iterations must be an integer of at least 1, got 0"),
        (lambda: SpectralNormPenalty(1, iterations=True), "iterations must be an integer of at least 1, got True"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
