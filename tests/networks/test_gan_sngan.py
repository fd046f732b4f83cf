"""SNGAN against its publication: maps, parameters, operations, first weights, and blocks written out."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from lightning_advreg.networks import (
    SNGANDiscriminator,
    SNGANGenerator,
    SNGANResNetDiscriminator,
    SNGANResNetGenerator,
)
from lightning_advreg.networks.gan_sngan_resnet import DownBlock, UpBlock


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def conv(ins, outs, size):
    return ins * outs * size**2 + outs


def maps(network, x):
    """Channels and side of what each convolution gives."""
    seen = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, __, y: seen.append((y.shape[1], y.shape[2])))
    network(x)
    return seen


def test_the_cnn_has_the_layers_of_table_3():
    generator, discriminator = SNGANGenerator(), SNGANDiscriminator()
    assert maps(generator, torch.randn(2, 128)) == [(256, 8), (128, 16), (64, 32), (3, 32)]
    assert maps(discriminator, torch.rand(1, 3, 32, 32)) == [
        *((64, 32), (64, 16)),
        *((128, 16), (128, 8)),
        *((256, 8), (256, 4)),
        (512, 4),
    ]
    linear, norms = 128 * 8192 + 8192, 2 * (512 + 256 + 128 + 64)
    up = 16 * (512 * 256 + 256 * 128 + 128 * 64)
    assert parameters(generator) == linear + norms + up + conv(64, 3, 3) == 3_812_931
    pairs = sum(conv(c, c, 4) + conv(c, 2 * c, 3) for c in (64, 128, 256))
    assert parameters(discriminator) == conv(3, 64, 3) + pairs + 8192 + 1 == 2_935_873
    assert [m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)] == [0.1] * 7


def test_the_resnet_has_the_layers_of_table_4():
    generator, discriminator = SNGANResNetGenerator(), SNGANResNetDiscriminator()
    up = 2 * conv(256, 256, 3) + conv(256, 256, 1) + 2 * 2 * 256
    assert parameters(generator) == 129 * 4096 + 3 * up + 2 * 256 + conv(256, 3, 3) == 4_276_739
    first = conv(3, 128, 3) + conv(128, 128, 3) + conv(3, 128, 1)
    blocks = [first, 2 * conv(128, 128, 3) + conv(128, 128, 1), 2 * conv(128, 128, 3), 2 * conv(128, 128, 3)]
    assert parameters(discriminator) == sum(blocks) + 129 == 1_053_825
    sides = {side for _, side in maps(SNGANResNetGenerator(width=2), torch.randn(2, 128))}
    assert sides == {4, 8, 16, 32}  # 4 are the shortcuts, which come before the doubling
    sides = [side for _, side in maps(SNGANResNetDiscriminator(width=2), torch.rand(1, 3, 32, 32))]
    assert sides == [32, 32, 16, 16, 16, 8, 8, 8, 8, 8]


def test_a_step_of_the_cnn_costs_what_is_known():
    """2.6 GFLOP for an image: a multiplication and an addition are two."""
    generator, discriminator = SNGANGenerator(), SNGANDiscriminator()
    real, z = torch.rand(2, 3, 32, 32), torch.randn(2, 128)
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            fake = generator(z)
        (discriminator(real) - discriminator(fake)).sum().backward()
        discriminator.requires_grad_(False)
        discriminator(generator(z)).sum().backward()
    assert counter.get_total_flops() / len(real) == pytest.approx(2.6e9, rel=0.03)


def test_an_up_block_is_what_the_paper_draws():
    block = UpBlock(4, nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    x = torch.randn(3, 4, 5, 5)
    y = block(x)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    h = F.relu(F.batch_norm(x, None, None, training=True)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1)
    h = F.relu(F.batch_norm(h, None, None, training=True))
    h = F.conv2d(h, block.conv2.weight, block.conv2.bias, padding=1)
    expected = h + F.conv2d(doubled, block.shortcut.weight, block.shortcut.bias)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("halves", [True, False])
def test_a_down_block_is_what_the_paper_draws(first, halves):
    ins = 3 if first else 4
    block = DownBlock(ins, 4, halves=halves, first=first)
    x = torch.randn(2, ins, 6, 6)
    h = x if first else F.relu(x)
    h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1)
    h = F.conv2d(F.relu(h), block.conv2.weight, block.conv2.bias, padding=1)
    shortcut = x if ins == 4 and not halves else F.conv2d(x, block.shortcut.weight, block.shortcut.bias)
    expected = h + shortcut
    if halves:
        expected = F.avg_pool2d(expected, 2)
    before = x.clone()
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)


def test_features_of_the_resnet_are_sums_over_positions():
    discriminator = SNGANResNetDiscriminator((1, 16, 16), width=4).eval()
    x = torch.rand(2, 1, 16, 16)
    last = discriminator.blocks(2 * x - 1)
    assert last.shape == (2, 4, 4, 4)
    expected = last.clamp(min=0).flatten(2).sum(2)
    torch.testing.assert_close(discriminator.features(x), expected)


def test_the_cnn_starts_as_published():
    for network in (SNGANGenerator(num_classes=10), SNGANDiscriminator(num_classes=10, spectral_norm=False)):
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
        layers += [m for m in [getattr(network, "label_projection", None)] if m is not None]
        assert len(layers) == (5 if isinstance(network, SNGANGenerator) else 9)
        for layer in layers:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert getattr(layer, "bias", None) is None or not layer.bias.any()


def test_the_resnet_starts_as_published():
    """Xavier uniform: variance gain^2 2 / (fan_in + fan_out), with gain sqrt(2) in residual branches."""
    checked = 0
    for network in (
        SNGANResNetGenerator(width=64, num_classes=10),
        SNGANResNetDiscriminator(width=64, num_classes=100, spectral_norm=False),
    ):
        for name, layer in network.named_modules():
            if not isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
                continue
            fan_out, fan_in = layer.weight.shape[:2]
            gain = math.sqrt(2) if name.endswith((".conv1", ".conv2")) else 1
            bound = gain * math.sqrt(6 / ((fan_in + fan_out) * layer.weight[0, 0].numel()))
            assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.1), name
            assert layer.weight.abs().max() <= bound * (1 + 1e-6)
            assert getattr(layer, "bias", None) is None or not layer.bias.any()
            checked += 1
    assert checked == 11 + 12


@pytest.mark.parametrize(
    "build",
    [SNGANGenerator, SNGANResNetGenerator, SNGANDiscriminator, SNGANResNetDiscriminator],
    ids=lambda b: b.__name__,
)
def test_sizes_must_fit(build):
    for shape in ((3, 30, 30), (1, 12, 12), (3, 32, 34)):
        with pytest.raises(ValueError, match=r"multiples of 4, 16 or more, such as 28, 32 or 48; got \(.*Pad or"):
            build(image_shape=shape, width=8)
    with pytest.raises(ValueError, match="width must be an integer of at least 1, got 0"):
        build(width=0)
    wide = build(image_shape=(1, 16, 24), width=8)
    given = torch.randn(2, 128) if hasattr(wide, "latent_dim") else torch.rand(2, 1, 16, 24)
    assert wide(given).shape == ((2, 1, 16, 24) if hasattr(wide, "latent_dim") else (2,))


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 20, 32)])
def test_sides_such_as_28_have_one_stage_fewer(shape):
    sides = [(shape[1] // n, shape[2] // n) for n in (4, 2, 1)]
    z, x = torch.randn(2, 128), torch.rand(2, *shape)

    def seen(network, given):
        found = []
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.register_forward_hook(lambda _, __, y: found.append((y.shape[1], tuple(y.shape[2:]))))
        return network(given), found

    images, found = seen(SNGANGenerator(image_shape=shape, width=32), z)
    assert images.shape == x.shape
    assert found == [(16, sides[1]), (8, sides[2]), (1, sides[2])]
    logits, found = seen(SNGANDiscriminator(image_shape=shape, width=32), x)
    assert logits.shape == (2,)
    assert found == [(8, sides[2]), (8, sides[1]), (16, sides[1]), (16, sides[0]), (32, sides[0])]
    generator = SNGANResNetGenerator(image_shape=shape, width=8)
    assert generator(z).shape == x.shape and len(generator.blocks) == 2
    assert SNGANResNetDiscriminator(image_shape=shape, width=8)(x).shape == (2,)


@pytest.mark.parametrize("build", [SNGANGenerator, SNGANDiscriminator])
def test_the_width_of_the_cnn_is_halved_three_times(build):
    with pytest.raises(
        ValueError, match="width must be a multiple of 8, since it is halved three times; got 12, take 16"
    ):
        build(width=12)
