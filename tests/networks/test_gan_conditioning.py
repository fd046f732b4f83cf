import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from lightning_advreg.networks import (
    ConditionalBatchNorm1d,
    ConditionalBatchNorm2d,
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    SNGANDiscriminator,
    SNGANGenerator,
    SNGANResNetDiscriminator,
    SNGANResNetGenerator,
)
from lightning_advreg.parameters import weights

CLASSES = 4
GENERATORS = {
    "mlp": lambda **kwargs: MLPGenerator(5, (1, 16, 16), hidden=(12, 12), **kwargs),
    "dcgan": lambda **kwargs: DCGANGenerator(5, (1, 16, 16), width=4, **kwargs),
    "sngan": lambda **kwargs: SNGANGenerator(5, (1, 16, 16), width=16, **kwargs),
    "resnet": lambda **kwargs: SNGANResNetGenerator(5, (1, 16, 16), width=8, **kwargs),
}
DISCRIMINATORS = {
    "mlp": lambda **kwargs: MLPDiscriminator((1, 16, 16), hidden=(12, 12), dropout=0.0, **kwargs),
    "dcgan": lambda **kwargs: DCGANDiscriminator((1, 16, 16), width=4, **kwargs),
    "sngan": lambda **kwargs: SNGANDiscriminator((1, 16, 16), width=16, **kwargs),
    "resnet": lambda **kwargs: SNGANResNetDiscriminator((1, 16, 16), width=8, **kwargs),
}
EACH_GENERATOR = pytest.mark.parametrize("name", GENERATORS)
EACH_DISCRIMINATOR = pytest.mark.parametrize("name", DISCRIMINATORS)
Y = torch.tensor([1, 0, 3, 1, 1, 0])
"""Class 2 is missing."""


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def images():
    return torch.rand(len(Y), 1, 16, 16)


def generator(name, conditioning):
    return GENERATORS[name](num_classes=CLASSES, conditioning=conditioning)


def discriminator(name, conditioning, **kwargs):
    return DISCRIMINATORS[name](num_classes=CLASSES, conditioning=conditioning, **kwargs)


@pytest.mark.parametrize(
    ("norm", "plain", "shape"),
    [(ConditionalBatchNorm1d, nn.BatchNorm1d, (3,)), (ConditionalBatchNorm2d, nn.BatchNorm2d, (3, 5, 2))],
)
def test_conditional_batch_norm_is_batch_norm_with_the_scale_and_shift_of_the_class(norm, plain, shape):
    conditional, reference = norm(3, CLASSES), plain(3, affine=False)
    x = 3 * torch.randn(len(Y), *shape) + 1
    assert torch.equal(conditional(x, Y), reference(x))  # at first all scales are 1 and all shifts 0
    nn.init.normal_(conditional.weight)
    nn.init.normal_(conditional.bias)
    for training in (True, False):
        conditional.train(training)
        reference.train(training)
        normalised, y = reference(x), conditional(x, Y)
        torch.testing.assert_close(conditional.norm.running_mean, reference.running_mean)
        torch.testing.assert_close(conditional.norm.running_var, reference.running_var)
        for row, label in enumerate(Y):
            scale, shift = (p[3 * label : 3 * label + 3] for p in (conditional.weight, conditional.bias))
            expected = [normalised[row, c] * scale[c] + shift[c] for c in range(3)]
            torch.testing.assert_close(y[row], torch.stack(expected))


def test_conditional_batch_norm_learns_for_the_classes_of_the_batch_alone():
    norm = ConditionalBatchNorm2d(3, CLASSES)
    norm(torch.randn(len(Y), 3, 2, 2), Y).pow(3).sum().backward()
    for parameter in (norm.weight, norm.bias):
        learning = parameter.grad.view(CLASSES, 3).abs().amax(1) > 0
        assert learning.tolist() == [True, True, False, True]


def test_limits_on_weights_leave_the_scales_of_conditional_batch_norm_alone():
    network = generator("dcgan", "batch_norm")
    names = [name for name, _ in weights(network)]
    assert names and not [n for n in names if isinstance(network.get_submodule(n.rpartition(".")[0]), nn.BatchNorm2d)]
    assert len(names) == sum(isinstance(m, nn.ConvTranspose2d) for m in network.modules())


def test_conditional_batch_norm_survives_the_change_to_synchronised_statistics():
    network = nn.SyncBatchNorm.convert_sync_batchnorm(generator("resnet", "batch_norm"))
    norms = [m for m in network.modules() if isinstance(m, ConditionalBatchNorm2d)]
    assert len(norms) == 7 and all(isinstance(m.norm, nn.SyncBatchNorm) for m in norms)


@EACH_GENERATOR
def test_every_norm_of_a_generator_is_conditional(name):
    kinds = nn.BatchNorm1d | nn.BatchNorm2d
    plain = [m for m in GENERATORS[name]().modules() if isinstance(m, kinds)]
    network = generator(name, "batch_norm")
    conditional = [m for m in network.modules() if isinstance(m, ConditionalBatchNorm1d | ConditionalBatchNorm2d)]
    assert len(plain) == len(conditional) == {"mlp": 2, "dcgan": 2, "sngan": 4, "resnet": 7}[name]
    assert not any(m.affine for m in network.modules() if isinstance(m, kinds))


@EACH_GENERATOR
@pytest.mark.parametrize("conditioning", ["concat", "batch_norm"])
def test_generators_draw_what_the_label_says_and_learn_it(name, conditioning):
    network = generator(name, conditioning)
    assert network.num_classes == CLASSES
    z = torch.randn(len(Y), 5)
    loss = (network(z, Y) - torch.rand(len(Y), 1, 16, 16)).square().sum()
    loss.backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert dead == []
    if conditioning == "concat":
        learning = network.label_input.embedding.weight.grad.abs().amax(1) > 0
        assert learning.tolist() == [True, True, False, True]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for _ in range(30):  # running statistics that fit
            network(z, Y)
    network.eval()
    drawn = network(z, Y)
    assert drawn.shape == (len(Y), 1, 16, 16)
    # each row by its own label: other labels elsewhere change nothing
    changed = network(z, torch.where(Y == 1, 2, Y))
    same = (drawn - changed).flatten(1).abs().amax(1) < 1e-6
    assert same.tolist() == (Y != 1).tolist()
    torch.testing.assert_close(copy.deepcopy(network)(z, Y), drawn)


@EACH_DISCRIMINATOR
@pytest.mark.parametrize("minibatch_std", [False, True])
def test_projection_adds_the_inner_product_of_embedding_and_features(name, minibatch_std):
    conditional = discriminator(name, "projection", minibatch_std=minibatch_std).eval()
    x = images()
    phi = conditional.features(x)
    psi = conditional.judge(phi)
    embedding = conditional.label_projection.weight
    assert embedding.shape == (CLASSES, phi.shape[1])
    expected = torch.stack([psi[i] + torch.dot(embedding[Y[i]], phi[i]) for i in range(len(Y))])
    torch.testing.assert_close(conditional(x, Y), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(conditional.score(phi, Y), expected, rtol=1e-4, atol=1e-5)
    assert (expected - psi).abs().min() > 0


@EACH_DISCRIMINATOR
def test_projection_learns_the_embeddings_of_the_batch(name):
    conditional = discriminator(name, "projection", **({"spectral_norm": False}))
    conditional(images(), Y).sum().backward()
    learning = conditional.label_projection.weight.grad.abs().amax(1) > 0
    assert learning.tolist() == [True, True, False, True]


@EACH_DISCRIMINATOR
def test_a_label_at_the_input_changes_features_and_logit(name):
    conditional = discriminator(name, "concat").eval()
    x = images()
    features, logits = conditional.features(x, Y), conditional(x, Y)
    torch.testing.assert_close(conditional.score(features, Y), logits)
    other = torch.where(Y == 1, 2, Y)
    for given, changed in ((features, conditional.features(x, other)), (logits, conditional(x, other))):
        same = (given - changed).view(len(Y), -1).abs().amax(1) < 1e-7
        assert same.tolist() == (Y != 1).tolist()
    logits.sum().backward()
    learning = conditional.label_input.embedding.weight.grad.abs().amax(1) > 0
    assert learning.tolist() == [True, True, False, True]
    with pytest.raises(ValueError, match="needs labels"):
        conditional.features(x)


@EACH_DISCRIMINATOR
def test_an_auxiliary_classifier_stands_beside_a_logit_without_the_class(name):
    auxiliary = discriminator(name, "auxiliary").eval()
    x = images()
    assert torch.equal(auxiliary(x, Y), auxiliary(x, (Y + 1) % CLASSES))
    classes = auxiliary.classify(auxiliary.features(x))
    assert classes.shape == (len(Y), CLASSES)
    F.cross_entropy(classes, Y).backward()
    untouched = [n for n, p in auxiliary.named_parameters() if p.grad is None]
    last = {"mlp": "layers.6", "dcgan": "layers.7"}.get(name, "linear")
    assert untouched and all(n.startswith(f"{last}.") for n in untouched)


@EACH_DISCRIMINATOR
def test_classify_is_there_where_it_means_something(name):
    assert not hasattr(DISCRIMINATORS[name](), "classify")
    assert not hasattr(DISCRIMINATORS[name](conditioning="auxiliary"), "classify")
    found = [c for c in ("concat", "projection", "auxiliary") if hasattr(discriminator(name, c), "classify")]
    assert found == ["auxiliary"]


@EACH_DISCRIMINATOR
@pytest.mark.parametrize("conditioning", ["concat", "projection", "auxiliary"])
def test_spectral_norm_bounds_every_layer_that_the_image_goes_through(name, conditioning):
    network = discriminator(name, conditioning, spectral_norm=True)
    layers = {n: m for n, m in network.named_modules() if parametrize.is_parametrized(m)}
    weighted = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Embedding)]
    assert [n for n in weighted if n not in layers] == (["label_input.embedding"] if conditioning == "concat" else [])
    with torch.no_grad():
        for layer in layers.values():
            layer.parametrizations.weight.original.mul_(7)
            for _ in range(60):  # each look at the weight is a pass
                _ = layer.weight
    network.eval()
    for layer in layers.values():
        sigma = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        assert sigma.item() == pytest.approx(1, abs=0.03)


@EACH_DISCRIMINATOR
def test_vectors_of_spectral_norm_move_in_training_alone(name):
    network = DISCRIMINATORS[name](spectral_norm=True)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))

    def vectors():
        return {n: b.clone() for n, b in network.named_buffers() if n.endswith(("_u", "_v")) and b.numel() > 1}

    before = vectors()
    assert before
    network.eval()
    network(images())
    assert all(torch.equal(b, before[n]) for n, b in vectors().items())
    network.train()
    network(images())
    assert all(not torch.equal(b, before[n]) for n, b in vectors().items())
    without = DISCRIMINATORS[name](spectral_norm=False)
    assert not any(parametrize.is_parametrized(m) for m in without.modules())


@pytest.mark.parametrize("build", [*GENERATORS.values(), *DISCRIMINATORS.values()])
def test_labels_that_do_not_fit_are_one_clear_error(build):
    network = build(num_classes=CLASSES)
    x = torch.randn(6, 5) if hasattr(network, "latent_dim") else images()
    call = "generator(z, y)" if hasattr(network, "latent_dim") else "discriminator(x, y)"
    with pytest.raises(ValueError) as caught:
        network(x)
    assert str(caught.value) == (
        f"a network with num_classes=4 needs labels; call it as {call}, with y int64 of shape (6,)."
    )
    with pytest.raises(TypeError, match=r"labels must be int64 class indices, got torch.float32; convert with `y.long"):
        network(x, Y.float())
    for wrong in (Y[:3], Y[:, None], F.one_hot(Y)):
        with pytest.raises(ValueError, match=r"labels must have shape \(6,\), one for each row of the batch, got \("):
            network(x, wrong)
    with pytest.raises(ValueError, match="without num_classes takes no labels; build it with num_classes"):
        build()(x, Y)


@pytest.mark.parametrize("build", [*GENERATORS.values(), *DISCRIMINATORS.values()])
def test_arguments_that_do_not_fit_are_named(build):
    with pytest.raises(
        ValueError, match=r"conditioning must be one of concat, (batch_norm|projection, aux.*); got 'x'"
    ):
        build(conditioning="x")
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1, got 0"):
        build(num_classes=0)


@EACH_GENERATOR
def test_conditional_batch_norm_needs_batch_norm(name):
    with pytest.raises(ValueError, match=r"conditioning='batch_norm' needs norm='batch', got norm='layer'; .*concat"):
        GENERATORS[name](num_classes=CLASSES, conditioning="batch_norm", norm="layer")
    assert GENERATORS[name](conditioning="batch_norm", norm="layer").num_classes is None
