from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_advreg.networks import (
    DCGANDiscriminator,
    DCGANGenerator,
    Discriminator,
    Generator,
    MLPDiscriminator,
    MLPGenerator,
    SNGANDiscriminator,
    SNGANGenerator,
    SNGANResNetDiscriminator,
    SNGANResNetGenerator,
)
from lightning_advreg.networks.gan_mlp import VectorNormName
from lightning_advreg.networks.layers import NormName

NORM_LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.LayerNorm)


def mlp_generator(image_shape=(1, 8, 8), **kwargs):
    return MLPGenerator(5, image_shape, **{"hidden": (16, 12), **kwargs})


def dcgan_generator(image_shape=(1, 28, 28), **kwargs):
    return DCGANGenerator(5, image_shape, **{"width": 8, **kwargs})


def mlp_discriminator(image_shape=(1, 8, 8), **kwargs):
    return MLPDiscriminator(image_shape, **{"hidden": (16, 12), **kwargs})


def dcgan_discriminator(image_shape=(1, 28, 28), **kwargs):
    return DCGANDiscriminator(image_shape, **{"width": 8, **kwargs})


def sngan_generator(image_shape=(1, 16, 16), **kwargs):
    return SNGANGenerator(5, image_shape, **{"width": 16, **kwargs})


def sngan_discriminator(image_shape=(1, 16, 16), **kwargs):
    return SNGANDiscriminator(image_shape, **{"width": 16, **kwargs})


def resnet_generator(image_shape=(1, 16, 16), **kwargs):
    return SNGANResNetGenerator(5, image_shape, **{"width": 8, **kwargs})


def resnet_discriminator(image_shape=(1, 16, 16), **kwargs):
    return SNGANResNetDiscriminator(image_shape, **{"width": 8, **kwargs})


GENERATORS = pytest.mark.parametrize("build", [mlp_generator, dcgan_generator])
DISCRIMINATORS = pytest.mark.parametrize("build", [mlp_discriminator, dcgan_discriminator])
CONVOLUTIONAL = {
    dcgan_generator: 2,
    dcgan_discriminator: 1,
    sngan_generator: 4,
    sngan_discriminator: 6,
    resnet_generator: 7,
    resnet_discriminator: 8,
}
"""How many normalisation layers each has."""
ALL_GENERATORS = pytest.mark.parametrize("build", [mlp_generator, dcgan_generator, sngan_generator, resnet_generator])
ALL_DISCRIMINATORS = pytest.mark.parametrize(
    "build", [mlp_discriminator, dcgan_discriminator, sngan_discriminator, resnet_discriminator]
)
WITH_NORM = pytest.mark.parametrize(
    ("build", "norm"),
    [(build, norm) for build in (mlp_generator, mlp_discriminator) for norm in get_args(VectorNormName)]
    + [(build, norm) for build in CONVOLUTIONAL for norm in get_args(NormName)],
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def inputs(network, n=4):
    return torch.randn(n, network.latent_dim) if isinstance(network, Generator) else torch.rand(n, *network.image_shape)


@GENERATORS
@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (2, 8, 8)])
def test_generators_give_images_in_the_unit_range(build, image_shape):
    generator = build(image_shape)
    for module in generator.modules():  # weights large enough to reach both ends of the range
        if isinstance(module, nn.Linear | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=5.0)
    assert generator.latent_dim == 5
    x = generator(torch.randn(4, 5))
    assert x.shape == (4, *image_shape)
    assert 0 <= x.min() < 0.01 and 0.99 < x.max() <= 1


@DISCRIMINATORS
@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 32, 32), (2, 8, 8)])
@pytest.mark.parametrize("n", [1, 3])
def test_discriminators_give_one_logit_per_image(build, image_shape, n):
    assert build(image_shape)(torch.rand(n, *image_shape)).shape == (n,)


@ALL_DISCRIMINATORS
def test_logits_are_not_squashed(build):
    discriminator = build().eval()
    last = getattr(discriminator, "linear", None) or discriminator.layers[-1]
    nn.init.constant_(last.bias, -40.0)
    assert discriminator(inputs(discriminator)).max() < -20


@ALL_DISCRIMINATORS
def test_pixels_are_mapped_to_minus_one_and_one(build):
    discriminator = build()
    seen = []
    first = next(m for m in discriminator.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = inputs(discriminator)
    discriminator(x)
    torch.testing.assert_close(seen[0].view_as(x), 2 * x - 1)


@pytest.mark.parametrize(
    ("side", "maps"),
    [(8, [4, 8]), (12, [6, 12]), (28, [7, 14, 28]), (32, [4, 8, 16, 32]), (36, [9, 18, 36]), (64, [4, 8, 16, 32, 64])],
)
def test_dcgan_maps_double_and_halve(side, maps):
    def sides(network, x):
        seen = []
        for layer in network.layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                layer.register_forward_hook(lambda _, __, y: seen.append((y.shape[1], y.shape[2])))
        network(x)
        return seen

    up = sides(DCGANGenerator(5, (3, side, side), width=2), torch.randn(2, 5))
    down = sides(DCGANDiscriminator((3, side, side), width=2), torch.rand(2, 3, side, side))
    assert [s for _, s in up] == maps
    assert [s for _, s in down] == [*maps[-2::-1], 1]
    channels = [2 * 2**i for i in range(len(maps) - 1)]
    assert [c for c, _ in up] == [*channels[::-1], 3]
    assert [c for c, _ in down] == [*channels, 1]


@WITH_NORM
def test_every_parameter_learns_after_one_step(build, norm):
    network = build(norm=norm)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        out = network(inputs(network, 8))
        F.mse_loss(out, torch.rand_like(out)).backward()
        optimizer.step()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []


@WITH_NORM
def test_norm_layers_are_there_when_asked_for(build, norm):
    norms = [m for m in build(norm=norm).modules() if isinstance(m, NORM_LAYERS)]
    assert len(norms) == (0 if norm == "none" else {**CONVOLUTIONAL, mlp_generator: 2, mlp_discriminator: 1}[build])


@WITH_NORM
def test_a_row_gives_the_same_alone_as_in_a_batch(build, norm):
    network = build(norm=norm)
    x = inputs(network)
    network(x)
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([network(row[None]) for row in x]), network(x), rtol=1e-4, atol=1e-5)


@ALL_DISCRIMINATORS
def test_dropout_acts_in_training_only(build):
    discriminator = build(dropout=0.5)
    x = inputs(discriminator)
    assert not torch.equal(discriminator(x), discriminator(x))
    discriminator.eval()
    assert torch.equal(discriminator(x), discriminator(x))
    assert all(m.p == 0 for m in build(dropout=0.0).modules() if isinstance(m, nn.Dropout))


@pytest.mark.parametrize("build", [dcgan_discriminator, sngan_discriminator, resnet_discriminator])
def test_spatial_dropout_drops_whole_channels(build):
    discriminator = build(spatial_dropout=0.5)
    dropouts = [m for m in discriminator.modules() if isinstance(m, nn.Dropout2d)]
    shares = []
    for layer in dropouts:
        layer.register_forward_hook(lambda _, args, out: shares.append(((out == 0) & (args[0] != 0), args[0] != 0)))
    discriminator(inputs(discriminator, 16))
    assert len(shares) == len(dropouts) > 1
    for gone, there in shares:
        gone, there = gone.sum((2, 3)), there.sum((2, 3))
        assert torch.all((gone == 0) | (gone == there))
        assert 0.2 < (gone > 0).sum() / (there > 0).sum() < 0.8


@ALL_DISCRIMINATORS
@pytest.mark.parametrize("minibatch_std", [False, True])
def test_the_last_layer_sees_the_features(build, minibatch_std):
    discriminator = build(minibatch_std=minibatch_std).eval()
    x = inputs(discriminator, 6)
    features = discriminator.features(x)
    assert features.dim() == 2 and len(features) == 6
    assert torch.equal(discriminator.score(features), discriminator(x))
    # linear in the features
    difference = discriminator.score(2 * features) - discriminator.score(features)
    torch.testing.assert_close(difference, discriminator.score(features) - discriminator.score(0 * features))


@ALL_DISCRIMINATORS
def test_minibatch_std_lets_images_see_each_other(build):
    x = inputs(build(), 4)
    other = torch.cat([x[:3], 1 - x[3:]])
    for minibatch_std in (False, True):
        discriminator = build(minibatch_std=minibatch_std, spectral_norm=False).eval()
        for layer in discriminator.modules():  # strong enough to be seen through all layers
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.3)
        first, second = discriminator(x)[:3], discriminator(other)[:3]
        assert torch.allclose(first, second, rtol=1e-5, atol=1e-8) != minibatch_std


@ALL_DISCRIMINATORS
def test_gradients_of_gradients_are_finite(build):
    discriminator = build()
    x = inputs(discriminator).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
    gradient.square().sum().backward()
    weights = [p for p in discriminator.parameters() if p.dim() > 1]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in weights)
    assert any(p.grad.abs().max() > 0 for p in weights)


@pytest.mark.parametrize("build", [mlp_generator, mlp_discriminator, *CONVOLUTIONAL])
def test_networks_run_under_autocast_and_channels_last(build):
    network = build(minibatch_std=True) if issubclass(type(build()), Discriminator) else build()
    network.eval()
    x = inputs(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = network(x)
    torch.testing.assert_close(low.float(), network(x), rtol=0.1, atol=0.05)
    if build not in (mlp_generator, mlp_discriminator):
        expected = network(x)
        network.to(memory_format=torch.channels_last)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_checkpoints_of_unconditional_networks_still_load():
    """The names of parameters are those of the first release."""

    def names(network):
        return [name for name, p in network.named_parameters()]

    assert names(MLPGenerator(hidden=(4,))) == ["layers.0.weight", "layers.1.weight", "layers.1.bias"] + [
        f"layers.3.{name}" for name in ("weight", "bias")
    ]
    assert names(MLPDiscriminator(hidden=(4, 4))) == [
        f"layers.{i}.{name}" for i in (0, 3, 6) for name in ("weight", "bias")
    ]
    assert names(DCGANGenerator(width=2)) == [
        *("layers.0.weight", "layers.1.weight", "layers.1.bias"),
        *("layers.3.weight", "layers.4.weight", "layers.4.bias"),
        *("layers.6.weight", "layers.6.bias"),
    ]
    assert names(DCGANDiscriminator(width=2)) == [
        *("layers.0.weight", "layers.0.bias"),
        *("layers.3.weight", "layers.4.weight", "layers.4.bias"),
        *("layers.7.weight", "layers.7.bias"),
    ]


def test_dcgan_for_64_pixels_has_the_published_number_of_parameters():
    # of the common implementation: 3,576,704 and 2,765,568, without biases; ours has them where no norm follows
    for network, expected in (
        (DCGANGenerator(100, (3, 64, 64), width=64), 3_576_704 + 3),
        (DCGANDiscriminator((3, 64, 64), width=64), 2_765_568 + 64 + 1),
    ):
        assert sum(p.numel() for p in network.parameters()) == expected


def test_mlp_batch_norm_keeps_the_default_eps():
    norms = [m for m in MLPGenerator().modules() if isinstance(m, nn.BatchNorm1d)]
    assert [(m.num_features, m.eps, m.momentum) for m in norms] == [(n, 1e-5, 0.1) for n in (256, 512, 1024)]


def test_batch_norm_of_maps_keeps_the_default_eps_too():
    networks = [DCGANGenerator(), DCGANDiscriminator(), SNGANGenerator(width=16), SNGANResNetGenerator(width=8)]
    networks += [DCGANGenerator(num_classes=3, conditioning="batch_norm")]
    for network in networks:
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)}


def test_dcgan_starts_as_published():
    for network in (DCGANGenerator(image_shape=(3, 32, 32)), DCGANDiscriminator((3, 32, 32))):
        convs = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        for conv in convs:
            assert conv.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert conv.bias is None or conv.bias.abs().max() == 0
        scales = torch.cat([m.weight for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
        assert scales.mean().item() == pytest.approx(1, abs=0.01)
        assert scales.std().item() == pytest.approx(0.02, rel=0.2)


def test_gan_bases_cannot_be_built():
    with pytest.raises(TypeError, match="abstract"):
        Generator(5, (1, 8, 8))
    with pytest.raises(TypeError, match="Discriminator is abstract; write forward, or features and score"):
        Discriminator((1, 8, 8))


def test_a_discriminator_of_ones_own_writes_forward_or_its_halves():
    class Whole(Discriminator):
        def forward(self, x):
            return x.flatten(1).mean(1)

    class Halves(Discriminator):
        def features(self, x):
            return x.flatten(1)

        def score(self, features, y=None):
            return features.mean(1) if y is None else features.mean(1) + y

    x = torch.rand(3, 1, 8, 8)
    whole, halves, conditional = Whole((1, 8, 8)), Halves((1, 8, 8)), Halves((1, 8, 8), num_classes=10)
    assert not hasattr(whole, "features") and not hasattr(whole, "score") and whole.num_classes is None
    torch.testing.assert_close(halves(x), whole(x))
    torch.testing.assert_close(conditional(x, torch.tensor([3, 0, 1])), whole(x) + torch.tensor([3.0, 0, 1]))
    with pytest.raises(ValueError, match=r"num_classes=10 needs labels; call it as discriminator\(x, y\)"):
        conditional(x)


@ALL_GENERATORS
@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 1, 1), (5,)])
def test_noise_of_another_shape_is_an_error(build, shape):
    with pytest.raises(ValueError, match=r"noise must have shape \(N, 5\), got .*torch.randn\(n, generator.latent_dim"):
        build()(torch.randn(shape))


@ALL_DISCRIMINATORS
def test_images_of_another_shape_are_an_error(build):
    with pytest.raises(ValueError, match=r"images must have shape \(N, 1, .*got \(2, 3, 8, 8\); build generator"):
        build()(torch.rand(2, 3, 8, 8))


@pytest.mark.parametrize("shape", [(1, 28, 32), (1, 30, 30), (1, 4, 4), (3, 27, 27)])
@pytest.mark.parametrize("build", [dcgan_generator, dcgan_discriminator])
def test_dcgan_sizes_must_fit(build, shape):
    with pytest.raises(
        ValueError, match="equal height and width, a multiple of 4 of at least 8, such as 28 or 32; got"
    ):
        build(shape)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="latent_dim must be an integer of at least 1, got 0"):
        MLPGenerator(latent_dim=0)
    with pytest.raises(ValueError, match=r"hidden\[1\] must be an integer of at least 1, got 0"):
        MLPDiscriminator(hidden=(4, 0))
    with pytest.raises(ValueError, match="norm must be one of batch, layer, none; got 'instance'"):
        MLPGenerator(norm="instance")
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\)"):
        DCGANDiscriminator(dropout=1.0)
    with pytest.raises(ValueError, match="image_shape must be"):
        MLPDiscriminator(image_shape=(28, 28))
