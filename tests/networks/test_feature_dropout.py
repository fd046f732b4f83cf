"""Spatial dropout and DropBlock as arguments of the networks."""

import pytest
import torch
from torch import nn
from torchvision.ops import drop_block2d

from lightning_advreg.callbacks import DropoutAblation
from lightning_advreg.networks import MNISTConvNet, PreActResNet18, ResNet18, WideResNet
from lightning_advreg.networks.drop_block import DropBlock
from lightning_advreg.networks.dropout_surgery import set_dropout_
from lightning_advreg.networks.residual import BasicBlock, PreActBlock, make_feature_dropout

BUILDS = [
    (lambda **k: ResNet18(width=4, **k), 8),
    (lambda **k: PreActResNet18(width=4, **k), 8),
    (lambda **k: WideResNet(depth=16, width=1, **k), 6),
    (lambda **k: MNISTConvNet(in_channels=3, image_size=16, width=4, **k), 2),
]
each = pytest.mark.parametrize(("build", "places"), BUILDS)


@each
@pytest.mark.parametrize(("argument", "kind"), [("spatial_dropout", nn.Dropout2d), ("dropblock", DropBlock)])
def test_each_block_drops_in_training_alone(build, places, argument, kind):
    torch.manual_seed(0)
    plain, dropping = build(), build(**{argument: 0.3})
    assert [layer.p for layer in dropping.modules() if isinstance(layer, kind)] == [0.3] * places
    assert not any(isinstance(layer, kind) for layer in plain.modules())
    # the same names, so that weights travel
    dropping.load_state_dict(plain.state_dict())
    x = torch.rand(4, 3, 16, 16)
    assert dropping.eval()(x).equal(plain.eval()(x))
    dropping.train()
    assert not dropping(x).equal(dropping(x))


@pytest.mark.parametrize("block", [BasicBlock, PreActBlock])
def test_channels_are_dropped_as_a_whole_and_the_others_scaled(block):
    torch.manual_seed(0)
    layer = block(8, 8, 1, "group", "relu", spatial_dropout=0.25)
    x = torch.rand(50, 8, 5, 5)
    with torch.no_grad():
        whole, out = layer.eval()(x), layer.train()(x)
    dropped = (out == 0).flatten(2).all(2)
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.06)
    torch.testing.assert_close(out[~dropped], (whole / 0.75)[~dropped])


def test_squares_are_dropped():
    torch.manual_seed(0)
    drop = make_feature_dropout(0.0, 0.1, block_size=3)
    out = drop(torch.ones(200, 4, 12, 12))
    dropped = (out == 0).float()
    assert dropped.mean().item() == pytest.approx(0.1, abs=0.02)
    # all that is dropped lies in a square that is
    inner = -nn.functional.max_pool2d(-dropped, 3, stride=1)
    covered = nn.functional.max_pool2d(nn.functional.pad(inner, (2, 2, 2, 2)), 3, stride=1)
    assert torch.equal(covered, dropped)


def test_both_act_one_after_the_other():
    assert [type(layer) for layer in make_feature_dropout(0.1, 0.2)] == [nn.Dropout2d, DropBlock]


@each
@pytest.mark.parametrize("argument", ["spatial_dropout", "dropblock"])
def test_bad_arguments(build, places, argument):
    with pytest.raises(ValueError, match=rf"^{argument} must lie in \[0, 1\), got 1.5"):
        build(**{argument: 1.5})


@pytest.mark.parametrize(("size", "square"), [((2, 2), 1), ((4, 6), 3), ((7, 9), 7)])
def test_the_largest_odd_square_that_fits(size, square):
    torch.manual_seed(0)
    x, ours = torch.rand(30, 5, *size), DropBlock(0.3, block_size=7).train()
    torch.manual_seed(1)
    out = ours(x)
    torch.manual_seed(1)
    torch.testing.assert_close(out, drop_block2d(x, 0.3, square), rtol=0, atol=0)
    assert (out == 0).any() and not (out == 0).all()


def test_squares_have_a_middle():
    with pytest.raises(ValueError, match=r"block_size must be odd, .* got 6; give 5 or 7"):
        DropBlock(0.1, block_size=6)
    with pytest.raises(ValueError, match=r"block_size must be odd, .* got 6; give 5 or 7"):
        DropoutAblation(0.1, "dropblock", block_size=6)
    with pytest.raises(ValueError, match=r"block_size must be odd, .* got 6; give 5 or 7"):
        set_dropout_(ResNet18(width=4), 0.1, "dropblock", block_size=6)


def test_the_ablation_trains_networks_whose_maps_get_smaller_than_a_square():
    net = ResNet18(width=4)
    set_dropout_(net, 0.3, "dropblock")
    assert net.train()(torch.rand(2, 3, 32, 32)).isfinite().all()


def test_an_ablation_sets_what_the_network_was_built_with():
    net = ResNet18(width=4, dropblock=0.2)
    set_dropout_(net, 0.1, "dropblock")
    assert {layer.p for layer in net.modules() if isinstance(layer, DropBlock)} == {0.1}
