"""Folding keeps the function, and folds what can be folded."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks.folding import agree, fold_batchnorm
from lightning_advreg.networks import PreActResNet18, ResNet18


def trained(module):
    """Give BatchNorm layers statistics and affine parameters of a trained network."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            if child.running_mean is not None:
                child.running_mean.uniform_(-1, 1)
                child.running_var.uniform_(0.3, 3)
            if child.affine:
                nn.init.uniform_(child.weight, 0.5, 2)
                nn.init.uniform_(child.bias, -1, 1)
    return module.eval()


class Wired(nn.Module):
    """A convolution and a BatchNorm, wired as a test says."""

    def __init__(self, wiring, norm=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), norm or nn.BatchNorm2d(3)
        self.wiring = wiring
        trained(self)

    def forward(self, x):
        return self.wiring(self, x)


def in_sequence(net, x):
    return net.norm(net.conv(x))


def folds(net, example):
    """Fold a network and assert that its outputs stay; give how many were folded."""
    with torch.no_grad():
        before = net(example)
        count = fold_batchnorm(net, example)
        torch.testing.assert_close(net(example), before, rtol=1e-4, atol=1e-4)
        other = torch.rand_like(example)
        assert torch.isfinite(net(other)).all()
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in net.modules())
    return count


@pytest.mark.parametrize(
    ("make", "count"),
    # of PreActResNet18, the first norms of the blocks and the last read sums
    [(ResNet18, 20), (PreActResNet18, 8)],
)
def test_residual_networks(make, count):
    net = trained(make(width=8))
    assert folds(net, torch.rand(4, 3, 16, 16)) == count
    assert sum(isinstance(child, nn.BatchNorm2d) for child in net.modules()) == (0 if count == 20 else 9)


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4), (6, 5)),
        (nn.Conv1d(5, 4, 2), nn.BatchNorm1d(4, affine=False), (6, 5, 7)),
        (nn.Conv2d(4, 4, 2, groups=2, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4), (6, 4, 5, 5)),
        (nn.Conv2d(5, 4, 2), nn.SyncBatchNorm(4), (6, 5, 5, 5)),
        (nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4, eps=0.1), (6, 2, 3, 3, 3)),
    ],
)
def test_kinds_of_layers(layer, norm, shape):
    net = trained(nn.Sequential(layer, norm, nn.Tanh()))
    assert folds(net, torch.rand(shape)) == 1
    assert isinstance(net[1], nn.Identity)
    assert not net[1].training


@pytest.mark.parametrize(
    "wiring",
    [
        lambda net, x: (z := net.conv(x)) + net.norm(z),  # a skip taken before the norm
        lambda net, x: net.norm(net.conv(net.conv(x))),  # the convolution runs twice
        lambda net, x: net.norm(net.norm(net.conv(x))),  # the norm runs twice
        lambda net, x: net.norm(net.conv(x).relu_()),  # the same tensor, changed in between
        lambda net, x: net.norm(net.conv(x) + 1),  # another tensor
        lambda net, x: net.norm(net.conv(x)) * net.norm.weight.sum(),  # looks at the layer
    ],
)
def test_wirings_that_cannot_be_folded(wiring):
    net = Wired(wiring)
    norm = net.norm
    assert folds(net, torch.rand(4, 3, 6, 6)) == 0
    assert net.norm is norm


def test_an_activation_in_place_is_seen_where_the_example_does_not_show_it():
    net = Wired(lambda net, x: net.norm(net.conv(x).relu_()))
    nn.init.constant_(net.conv.bias, 100.0)
    assert folds(net, torch.rand(4, 3, 6, 6)) == 0


def test_a_norm_called_by_keyword_is_seen():
    assert folds(Wired(lambda net, x: net.norm(net.conv(input=x).relu_()).relu()), torch.rand(4, 3, 6, 6)) == 0
    net = Wired(lambda net, x: net.norm(input=net.conv(x)))
    # the identity that takes its place has the same argument
    assert folds(net, torch.rand(4, 3, 6, 6)) == 1


@pytest.mark.parametrize("statistics", ["batch", "training"])
def test_a_norm_of_batch_statistics_is_not_folded(statistics):
    net = Wired(in_sequence, nn.BatchNorm2d(3, track_running_stats=statistics != "batch"))
    net.norm.train(statistics == "training")
    net.norm.momentum = 0.0
    assert folds(net, torch.rand(4, 3, 6, 6)) == 0


def test_two_norms_on_one_convolution_are_not_folded():
    net = Wired(lambda net, x: (z := net.conv(x), net.norm(z) + net.second(z))[1])
    net.second = trained(nn.BatchNorm2d(3))
    assert folds(net, torch.rand(4, 3, 6, 6)) == 0


@pytest.mark.parametrize("touch", ["parametrization", "old spectral norm", "hook", "pre-hook", "forward"])
def test_layers_that_do_more_than_their_type_are_not_folded(touch):
    net = Wired(in_sequence)
    if touch == "parametrization":
        nn.utils.parametrizations.spectral_norm(net.conv).eval()
    elif touch == "old spectral norm":
        nn.utils.spectral_norm(net.conv).eval()
    elif touch == "hook":
        net.norm.register_forward_hook(lambda module, arguments, output: 2 * output)
    elif touch == "pre-hook":
        net.conv.register_forward_pre_hook(lambda module, arguments: (2 * arguments[0],))
    else:
        net.conv.forward = lambda x: 2 * nn.Conv2d.forward(net.conv, x)
    x = torch.rand(4, 3, 6, 6)
    before = net(x)
    assert fold_batchnorm(net, x) == 0
    assert torch.equal(net(x), before)
    assert len(net.norm._forward_hooks) == (touch == "hook")


def test_bisection_leaves_out_the_bad_folds_alone():
    skips = {1, 4}
    blocks = nn.ModuleList(
        Wired((lambda net, x: (z := net.conv(x)).tanh() + net.norm(z)) if i in skips else in_sequence) for i in range(7)
    )
    net = nn.Sequential(*blocks)
    assert folds(net, torch.rand(4, 3, 6, 6)) == 5
    assert {i for i, block in enumerate(blocks) if isinstance(block.norm, nn.BatchNorm2d)} == skips


def test_tied_weights_stay_tied_to_what_they_were():
    net = Wired(lambda net, x: net.norm(net.conv(x)) + net.other(x))
    net.other = nn.Conv2d(3, 3, 3, padding=1)
    net.other.weight = net.conv.weight
    assert folds(net, torch.rand(4, 3, 6, 6)) == 1


def test_every_place_of_a_shared_layer_is_replaced():
    net = Wired(lambda net, x: net.layers(x))
    net.layers = nn.Sequential(net.conv, net.norm)
    assert folds(net, torch.rand(4, 3, 6, 6)) == 1
    assert net.layers[0] is net.conv
    assert net.layers[1] is net.norm


def test_linear_over_a_sequence_is_not_folded():
    # BatchNorm1d normalises the positions, which are as many as the features
    net = trained(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    assert folds(net, torch.rand(6, 4, 5)) == 0


@pytest.mark.parametrize("norms", [0, 3])
def test_a_network_that_draws_random_numbers_keeps_its_layers(norms):
    net = nn.Sequential(*(Wired(in_sequence) for _ in range(norms)), Wired(lambda net, x: net.conv(torch.rand_like(x))))
    layers = list(net.modules())
    assert fold_batchnorm(net, torch.rand(4, 3, 6, 6)) == 0
    assert list(net.modules()) == layers


def test_hooks_are_removed_after_an_error():
    net = Wired(in_sequence)
    with pytest.raises(RuntimeError, match="channels"):
        fold_batchnorm(net, torch.rand(4, 5, 6, 6))
    assert not net.conv._forward_hooks
    assert not net.norm._forward_pre_hooks


def test_a_network_of_several_outputs_is_refused():
    with pytest.raises(TypeError, match="must give one tensor, got tuple"):
        fold_batchnorm(Wired(lambda net, x: (net.conv(x), x)), torch.rand(4, 3, 6, 6))


@pytest.mark.parametrize(
    ("change", "agrees"),
    [(0.0, True), (0.5, True), (2.0, False), (float("nan"), False), (float("inf"), False)],
)
def test_agreement_is_relative_to_the_largest_finite_entry(change, agrees):
    expected = torch.tensor([[1000.0, 0.0, -float("inf")], [float("nan"), float("inf"), 3.0]])
    output = expected.clone()
    output[0, 1] += change
    assert agree(output, expected) is agrees
    assert not agree(output[:, :2], expected)
    assert not agree((expected,), expected)


def test_half_precision_is_judged_loosely():
    expected = torch.tensor([1.0, 0.5]).bfloat16()
    assert agree(expected + 0.05, expected)
    assert not agree(expected + 0.2, expected)
