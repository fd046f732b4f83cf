import pytest
import timm
import torch
import torchvision
from torch import nn

from lightning_advreg.networks import MNISTConvNet, PreActResNet18
from lightning_advreg.networks.branches import residual_branches
from lightning_advreg.networks.dropout_surgery import set_dropout_


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)
    )


def test_dropout_goes_before_the_last_linear_layer():
    net = timm.create_model("resnet10t", num_classes=10)
    names = list(net.state_dict())
    assert set_dropout_(net, "1/2") == ("fc",)
    assert list(net.state_dict()) == names and isinstance(net.fc, nn.Linear)
    torch.manual_seed(0)
    zeros = []
    handle = net.fc.register_forward_pre_hook(lambda _, args: zeros.append((args[0] == 0).float().mean().item()))
    net.fc(torch.rand(64, 512) + 1)
    assert zeros[0] == pytest.approx(0.5, abs=0.02)
    handle.remove()
    net.eval()
    x = torch.rand(2, 512)
    torch.testing.assert_close(net.fc(x), nn.functional.linear(x, net.fc.weight, net.fc.bias))


def test_layers_that_are_there_are_set_and_no_other_is_attached():
    net = MNISTConvNet(dropout=0.1)
    assert set_dropout_(net, 0.4) == ("classifier.2",)
    assert net.classifier[2].p == 0.4 and not hasattr(net.classifier[3], "dropout_ablation")
    set_dropout_(net, 0)
    assert net.classifier[2].p == 0


def test_twice_is_as_once_and_another_kind_takes_the_first_back():
    net = MNISTConvNet(dropout=0.1)
    set_dropout_(net, 0.4)
    set_dropout_(net, 0.4)
    assert set_dropout_(net, 0.2, "spatial") == ("features.3",)
    assert net.classifier[2].p == 0.1
    assert set_dropout_(net, 0.2, "spatial") == ("features.3",)
    assert len(net.features[3]._forward_pre_hooks) == 1
    set_dropout_(net, 0.5)
    assert not net.features[3]._forward_pre_hooks and not hasattr(net.features[3], "dropout_ablation")
    assert net.classifier[2].p == 0.5


def test_spatial_dropout_drops_whole_channels():
    net = convolutional()
    assert set_dropout_(net, 0.5, "spatial") == ("2",)
    seen = []
    net[2].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(torch.rand(8, 1, 8, 8) + 1)
    dropped = (seen[0] == 0).flatten(2)
    channels = dropped.all(2)
    before = net[:2](torch.zeros(1, 1, 8, 8) + 1).flatten(2).amax(2) > 0
    assert 0.2 < channels[:, before[0]].float().mean() < 0.8
    assert torch.equal(dropped[channels].all(1), torch.ones(int(channels.sum()), dtype=torch.bool))


@pytest.mark.parametrize("kind", ["spatial", "dropblock"])
def test_residual_networks_drop_after_their_blocks(kind):
    net = torchvision.models.resnet18(num_classes=2)
    blocks = tuple(f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2))
    assert set_dropout_(net, 0.9, kind, block_size=1) == blocks
    torch.manual_seed(0)
    y = net.layer1[0](torch.rand(4, 64, 6, 6))
    assert (y == 0).float().mean() > 0.7
    net.eval()
    assert (net.layer1[0](torch.rand(4, 64, 6, 6)) == 0).float().mean() < 0.7


def test_paths_are_dropped_for_whole_images_and_more_often_with_depth():
    net = torchvision.models.resnet18(num_classes=2)
    ends = set_dropout_(net, 0.8, "droppath")
    assert ends == tuple(branch.end for branch in residual_branches(net))
    assert [net.get_submodule(end).dropout_ablation.p for end in ends] == pytest.approx([0.1 * i for i in range(1, 9)])
    block, x = net.layer4[1], torch.rand(64, 512, 2, 2)
    torch.manual_seed(0)
    skipped = (block(x) == x).flatten(1).all(1).float().mean().item()
    assert skipped == pytest.approx(0.8, abs=0.15)
    block.eval()
    assert not (block(x) == x).flatten(1).all(1).any()


def test_paths_that_a_network_drops_already_are_part_of_the_rule():
    net = timm.create_model("vit_tiny_patch16_224", depth=2, drop_path_rate=0.2, img_size=32, patch_size=16)
    assert len(set_dropout_(net, 0.4, "droppath")) == 4
    found = [m for m in net.modules() if type(m).__name__ in ("DropPath", "StochasticDepth")]
    assert [getattr(m, "drop_prob", None) or m.p for m in found] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    set_dropout_(net, 0.0, "droppath")
    assert net.blocks[1].drop_path1.drop_prob == 0


def test_named_places():
    net = PreActResNet18(width=4)
    assert set_dropout_(net, 0.3, "spatial", "stages.?.0.conv1") == tuple(f"stages.{i}.0.conv1" for i in range(4))
    assert isinstance(net.stages[2][0].conv1.dropout_ablation, nn.Dropout2d)


def test_errors_say_why_and_what_to_do():
    with pytest.raises(ValueError, match="p must be less than 1, got 1"):
        set_dropout_(convolutional(), 1)
    with pytest.raises(ValueError, match=r"kind must be one of dropout, spatial, .*; got 'path'"):
        set_dropout_(convolutional(), 0.1, "path")
    with pytest.raises(ValueError, match=r"kind='droppath' finds no place: no residual branch was found in Sequential"):
        set_dropout_(convolutional(), 0.1, "droppath")
    with pytest.raises(ValueError, match=r"ReLU has no linear layer.*name layers after which to drop with layers="):
        set_dropout_(nn.ReLU(), 0.1)
    with pytest.raises(ValueError, match=r"neither a residual block nor a second 2-d convolution"):
        set_dropout_(nn.Linear(2, 2), 0.1, "spatial")
    with pytest.raises(ValueError, match=r"layers='head' matches no layer of Sequential; the nearest names are '0'"):
        set_dropout_(convolutional(), 0.1, "dropout", "head")
    with pytest.raises(ValueError, match="block_size must be an integer of at least 1, got 0"):
        set_dropout_(convolutional(), 0.1, "dropblock", block_size=0)
