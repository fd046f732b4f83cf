from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_advreg.networks import MNISTConvNet, PreActResNet18, ResNet18, WideResNet
from lightning_advreg.networks.layers import ActivationName, NormName, SkipGain
from lightning_advreg.networks.residual import BasicBlock, PreActBlock

NORM_LAYERS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)


def mnist(**kwargs):
    return MNISTConvNet(**{"in_channels": 3, "image_size": 16, "width": 4, "hidden": 16, **kwargs})


def resnet(**kwargs):
    return ResNet18(**{"width": 4, **kwargs})


def preact(**kwargs):
    return PreActResNet18(**{"width": 4, **kwargs})


def wide(**kwargs):
    return WideResNet(**{"depth": 10, "width": 1, **kwargs})


ALL = pytest.mark.parametrize("build", [mnist, resnet, preact, wide])
RESIDUAL = pytest.mark.parametrize("build", [resnet, preact, wide])
NORMS = pytest.mark.parametrize("norm", get_args(NormName))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images(n=4, channels=3, size=16):
    return torch.rand(n, channels, size, size)


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (MNISTConvNet, 166_406),
        (ResNet18, 11_173_962),
        (PreActResNet18, 11_172_170),
        (lambda: WideResNet(28, 10), 36_479_194),
        (lambda: WideResNet(34, 10), 46_160_474),
    ],
)
def test_parameter_counts_are_the_published_ones(build, count):
    with torch.device("meta"):
        network = build()
    assert sum(p.numel() for p in network.parameters()) == count


def test_preact_without_the_last_norm_has_the_count_of_the_common_variant():
    with torch.device("meta"):
        network = PreActResNet18()
    network.last = nn.Identity()
    assert sum(p.numel() for p in network.parameters()) == 11_171_146


@ALL
@NORMS
def test_logits_have_one_column_per_class(build, norm):
    assert build(num_classes=7, norm=norm)(images()).shape == (4, 7)


@RESIDUAL
@pytest.mark.parametrize("size", [9, 28, 32])
def test_residual_networks_take_other_sizes(build, size):
    assert build(in_channels=1, norm="instance")(images(2, 1, size)).shape == (2, 10)


@pytest.mark.parametrize("size", [4, 5, 7, 8, 28, 30])
def test_mnist_network_takes_every_size_from_four(size):
    assert MNISTConvNet(image_size=size, width=2)(images(2, 1, size)).shape == (2, 10)


@ALL
@NORMS
def test_every_parameter_learns_after_one_step(build, norm):
    # the gain of a residual branch starts at zero, so the branch itself gets its first gradient in the second step
    network, x, y = build(norm=norm, activation="silu"), images(8), torch.arange(8)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []


@RESIDUAL
def test_networks_without_norm_train(build):
    network, x, y = build(norm="none"), images(8), torch.arange(8)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 < 2 < losses[0]


@ALL
def test_no_norm_means_no_norm_layer_and_biases_everywhere(build):
    network = build(norm="none")
    assert not any(isinstance(m, NORM_LAYERS) for m in network.modules())
    assert all(m.bias is not None for m in network.modules() if isinstance(m, nn.Conv2d))


@ALL
@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance"])
def test_with_a_norm_every_layer_has_it_and_convolutions_have_no_bias(build, norm):
    network = build(norm=norm)
    kinds = {type(m) for m in network.modules() if isinstance(m, NORM_LAYERS)}
    assert len(kinds) == 1
    assert all(m.bias is None for m in network.modules() if isinstance(m, nn.Conv2d))
    assert not any(isinstance(m, SkipGain) for m in network.modules())


@ALL
@pytest.mark.parametrize("activation", get_args(ActivationName))
def test_activation_is_used_throughout(build, activation):
    kinds = {type(m) for m in build(activation=activation).modules() if type(m).__module__.endswith("activation")}
    assert {k.__name__.lower() for k in kinds} == {activation.replace("_", "")}


@ALL
@NORMS
def test_an_image_gets_the_same_logits_alone_as_in_a_batch(build, norm):
    network, x = build(norm=norm), images(4)
    network(x)  # running statistics that differ from their start
    network.eval()
    with torch.no_grad():
        together, alone = network(x), torch.cat([network(row[None]) for row in x])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


@ALL
def test_dropout_acts_in_training_only(build):
    x = images()
    network = build(norm="layer", dropout=0.5)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    without = build(norm="layer")
    assert torch.equal(without(x), without(x))
    without.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(x), without.eval()(x), rtol=0, atol=0)


def test_wide_resnet_drops_inside_every_block():
    blocks = [m for m in WideResNet(16, 1, dropout=0.3).modules() if isinstance(m, PreActBlock)]
    assert [b.dropout.p for b in blocks] == [0.3] * 6


@ALL
def test_normalisation_is_inside(build):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    network = build(mean=mean, std=std).eval()
    plain = build(mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    plain.load_state_dict(network.state_dict())
    x = images()
    normalised = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(network(x), plain(normalised))
    assert not torch.allclose(network(x), plain(x), atol=1e-3)


@RESIDUAL
def test_colour_images_are_normalised_by_cifar10_statistics_by_default(build):
    assert build().normalize.mean.flatten().tolist() == pytest.approx([0.4914, 0.4822, 0.4465])
    assert isinstance(build(in_channels=1).normalize, nn.Identity)


def test_mnist_network_does_not_normalise_by_default():
    assert isinstance(MNISTConvNet().normalize, nn.Identity)


@RESIDUAL
def test_convolutions_start_with_the_variance_of_he(build):
    convs = [m for m in build(norm="none").modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 1000]
    for conv in convs:
        fan_out = conv.out_channels * conv.kernel_size[0] ** 2
        assert conv.weight.var().item() == pytest.approx(2 / fan_out, rel=0.2)
        assert conv.bias.abs().max() == 0


def test_post_activation_block_is_activation_of_the_sum():
    block = BasicBlock(3, 3, 1, "none", "relu")
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(block(x), x.relu())  # the branch is zero at the start
    nn.init.ones_(block.branch_end.gain)
    torch.testing.assert_close(block(x), (x + block.conv2(block.conv1(x).relu())).relu())


def test_pre_activation_block_carries_its_input_untouched():
    block = PreActBlock(3, 3, 1, "none", "relu")
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(block(x), x)
    nn.init.ones_(block.branch_end.gain)
    torch.testing.assert_close(block(x), x + block.conv2(block.conv1(x.relu()).relu()))


def test_pre_activation_block_projects_the_activated_input():
    block = PreActBlock(3, 5, 2, "none", "relu")
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(block(x), block.shortcut(x.relu()))


@pytest.mark.parametrize("depth", [4, 9, 27, 30])
def test_wide_resnet_depth_must_fit(depth):
    with pytest.raises(ValueError, match=rf"depth must be 6 n \+ 4 with n of at least 1 .*, got {depth}"):
        WideResNet(depth)


@ALL
def test_bad_arguments_are_named(build):
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        build(dropout=1)
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1, got 0"):
        build(num_classes=0)
    with pytest.raises(ValueError, match="norm must be one of batch"):
        build(norm="batchnorm")
    with pytest.raises(ValueError, match="activation must be one of relu"):
        build(activation="tanh")
    with pytest.raises(ValueError, match="one value for each of the 3 channels"):
        build(mean=(0.5,), std=(0.5,))


def test_mnist_network_says_which_images_it_takes():
    with pytest.raises(ValueError, match=r"shape \(N, 1, 28, 28\), got \(2, 1, 8, 8\); set in_channels and image_size"):
        MNISTConvNet()(images(2, 1, 8))
    with pytest.raises(ValueError, match="image_size must be at least 4, got 3"):
        MNISTConvNet(image_size=3)
    with pytest.raises(ValueError, match="norm='instance' needs image_size of at least 8, got 7"):
        MNISTConvNet(image_size=7, norm="instance")


@RESIDUAL
def test_grey_images_are_not_broadcast_to_colour(build):
    with pytest.raises(ValueError, match=r"must have shape \(N, 3, H, W\), got \(2, 1, 16, 16\)"):
        build()(images(2, 1))
