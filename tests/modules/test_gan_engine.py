"""The engine of the GAN: the results of plain training, from fewer and faster passes."""

from collections import Counter
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from lightning_advreg import GAN
from lightning_advreg.modules import Engine, compilation
from lightning_advreg.modules.gan_passes import judges_alone
from lightning_advreg.networks import DCGANDiscriminator, DCGANGenerator
from lightning_advreg.objectives import RpGAN
from lightning_advreg.penalties import R1, ActivityL1, LeCam

from .gan_parts import CLASSES, SplitDiscriminator, labelled
from .parts import BUILDERS, SHAPE, AtBatches, digits, discriminator, fit_gan, generator, plain_gan, trainer
from .test_resume import InterruptAtBatch, assert_same_run, run

_SGD = partial(torch.optim.SGD, lr=0.1)
# the first layer of a DCGAN has no normalisation, so that one for 8x8 would have none at all
_LARGER = (1, 16, 16)
_ADAM = {"discriminator_optimizer": None, "generator_optimizer": None}


def conditional(how):
    return discriminator(num_classes=CLASSES, conditioning=how)


CASES = {
    "plain": plain_gan,
    "projection": lambda **s: plain_gan(
        generator=generator(num_classes=CLASSES), discriminator=conditional("projection"), **s
    ),
    "auxiliary": lambda **s: plain_gan(
        generator=generator(num_classes=CLASSES),
        discriminator=conditional("auxiliary"),
        auxiliary_on_generated=True,
        **s,
    ),
    "r1": lambda **s: plain_gan(critic_penalties=[R1(1.0, every=2), LeCam(0.3)], **s),
    "relativistic": lambda **s: plain_gan(
        discriminator=SplitDiscriminator(), loss=RpGAN(), feature_matching=0.5, instance_noise=0.1, **s
    ),
    "dcgan": lambda **s: plain_gan(
        generator=DCGANGenerator(4, SHAPE, 2, num_classes=3, conditioning="batch_norm"),
        discriminator=DCGANDiscriminator(SHAPE, 2, num_classes=3, norm="group"),
        **s,
    ),
    "fused": lambda **s: plain_gan(**{**s, **_ADAM}),
    "clipped": lambda **s: plain_gan(**{**s, **_ADAM}, gradient_clip_val=0.1),
}


def built(name, engine):
    torch.manual_seed(0)
    return CASES[name](engine=engine, discriminator_optimizer=_SGD, generator_optimizer=_SGD)


def fitted(name, engine, **settings):
    model = built(name, engine)
    # 8, 8, 8 and 4 images
    trainer(limit_val_batches=0, **settings).fit(model, labelled(count=28))
    return model


def assert_alike(model, other):
    ours, theirs = model.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("name", CASES)
def test_the_engine_gives_the_weights_averages_and_statistics_of_plain_training(name):
    begun = built(name, None).state_dict()
    plain, fast = fitted(name, None), fitted(name, Engine(channels_last=True))
    assert_alike(fast, plain)
    assert fast.generator_steps == plain.generator_steps == 4
    # the weights have moved by more than the tolerance, and the average with them
    moved = {key: (value - begun[key]).abs().max() for key, value in plain.state_dict().items() if "weight" in key}
    for network in ("generator.", "generator_ema.", "discriminator."):
        assert max(value for key, value in moved.items() if key.startswith(network)) > 1e-4


def test_the_layout_reaches_weights_and_images():
    strides = []
    model = built("dcgan", Engine(channels_last=True))
    see = AtBatches(lambda fitting, gan, batch: strides.append(gan.passes.laid_out(torch.rand(2, 3, 4, 4)).stride()))
    trainer(limit_val_batches=0, limit_train_batches=1, callbacks=[see]).fit(model, labelled())
    assert model.generator.layers[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert strides == [(48, 1, 12, 3)]


def test_a_discriminator_that_looks_at_its_memory_keeps_the_usual_layout():
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            # weights of one channel would have both layouts at once
            self.conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))
            self.linear = nn.Linear(32, 1)

        def forward(self, x):
            return self.linear(self.conv(x).view(len(x), -1)).squeeze(1)

    model = plain_gan(discriminator=Viewing(), engine=Engine(channels_last=True))
    with pytest.warns(UserWarning, match=r"Viewing is trained without channels_last: .*x\.flatten\(1\)"):
        trainer(limit_val_batches=0, limit_train_batches=1).fit(model, labelled())
    assert model.discriminator.conv[1].weight.is_contiguous()


# one pass over real and generated images


def passes_of(**settings):
    """Count the images in each pass of the discriminator's training, and give those of three batches of 8."""
    seen, net = [], settings.pop("discriminator", None) or SplitDiscriminator()
    model = plain_gan(discriminator=net, **settings)

    def see(module, inputs, logits):
        # passes of checks have 4 images at the most
        if next(module.parameters()).requires_grad and logits.requires_grad and len(logits) > 4:
            seen.append(len(logits))

    net.register_forward_hook(see)
    trainer(limit_val_batches=0, limit_train_batches=3).fit(model, labelled())
    return seen


def test_both_kinds_of_images_take_one_pass_with_an_engine():
    assert passes_of(engine=Engine()) == [16, 16, 16]
    assert passes_of() == [8] * 6


def test_two_passes_where_a_penalty_differentiates_by_images_and_where_layers_are_watched():
    assert passes_of(engine=Engine(), critic_penalties=[R1(1.0, every=2)]) == [8, 8, 16, 8, 8]
    assert passes_of(engine=Engine(), discriminator_penalties=[ActivityL1(1e-3, layers=["layer"])]) == [8] * 6


@pytest.mark.parametrize(
    ("net", "alone"),
    [
        (discriminator(), True),
        (discriminator(dropout=0.3), False),
        (discriminator(dropout=0.3).eval(), True),
        (DCGANDiscriminator(_LARGER, 2, norm="group"), True),
        (DCGANDiscriminator(_LARGER, 2, norm="batch"), False),
        (DCGANDiscriminator(_LARGER, 2, norm="batch").eval(), True),
        (DCGANDiscriminator(_LARGER, 2, norm="none", minibatch_std=True), False),
        (DCGANDiscriminator(_LARGER, 2, norm="none", spectral_norm=True), False),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 1)), False),
    ],
    ids=["mlp", "dropout", "dropout_off", "group", "batch", "batch_off", "minibatch", "spectral", "batch_no_stats"],
)
def test_images_are_joined_only_where_each_is_judged_by_itself(net, alone):
    x, before = (
        torch.rand(6, *getattr(net, "image_shape", SHAPE)),
        {key: value.clone() for key, value in net.state_dict().items()},
    )
    state, mode = torch.get_rng_state(), net.training
    assert judges_alone(net, x, None) is alone
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training is mode
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert not judges_alone(net, x[:1], None)


def test_a_run_that_goes_on_within_an_epoch_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setitem(
        BUILDERS, "gan", lambda: plain_gan(engine=Engine(channels_last=True), critic_penalties=[R1(1.0, every=2)])
    )
    whole = run("gan", tmp_path / "whole", {"datamodule": digits()}, seed=0)
    saving = {"every_n_train_steps": 1, "save_top_k": -1}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run("gan", tmp_path / "part", {"datamodule": digits()}, seed=0, callbacks=[InterruptAtBatch(3)], **saving)
    last = tmp_path / "part" / "last.ckpt"
    assert_same_run(whole, run("gan", tmp_path / "rest", {"datamodule": digits()}, seed=99, ckpt_path=last))


# optimizers and frozen weights


def test_default_optimizers_are_fused_with_an_engine_unless_gradients_are_clipped():
    for settings, fused in (
        ({"engine": Engine()}, True),
        ({}, None),
        ({"engine": Engine(), "gradient_clip_val": 1}, None),
    ):
        model = GAN(generator(), discriminator(), **settings)
        fitting = fit_gan(model, batches=1)
        assert [o.defaults["fused"] for o in fitting.optimizers] == [fused, fused]
        assert [(o.defaults["lr"], o.defaults["betas"]) for o in fitting.optimizers] == [(2e-4, (0.5, 0.999))] * 2


def test_the_generators_step_takes_no_gradient_of_the_discriminators_weights():
    given = []

    class Look(Callback):
        def on_before_optimizer_step(self, fitting, model, optimizer):
            given.append([parameter.requires_grad for parameter in model.discriminator.parameters()])

    fit_gan(plain_gan(), batches=1, callbacks=[Look()])
    assert [all(each) for each in given] == [True, False]
    assert not any(given[1])


def test_a_checkpoint_rebuilds_the_engine(tmp_path):
    model = plain_gan(engine=Engine(channels_last=True))
    fitting = fit_gan(model, batches=1)
    fitting.save_checkpoint(tmp_path / "model.ckpt")
    assert GAN.load_from_checkpoint(tmp_path / "model.ckpt").engine == Engine(channels_last=True)


# compiled


@pytest.fixture
def programs(monkeypatch):
    """Compile without an optimising backend, and count programs by whether weights are trained."""
    made = Counter()

    def backend(graph, inputs):
        trained = any(isinstance(value, nn.Parameter) and value.requires_grad for value in inputs)
        made["training" if trained else "frozen"] += 1
        return torch._dynamo.backends.debugging.aot_eager(graph, inputs)

    monkeypatch.setattr(compilation, "_BACKEND", backend)
    return made


@pytest.mark.parametrize("name", ["projection", "auxiliary", "r1"])
def test_compiled_training_gives_the_weights_of_plain_training(name, programs, recwarn):
    fast = fitted(name, Engine(compile=True))
    assert not [w for w in recwarn if "without torch.compile" in str(w.message)]
    # the generator and the discriminator trained, and the discriminator frozen; R1 begins with passes of 8 images
    assert programs == {"training": 3 if name == "r1" else 2, "frozen": 1}
    assert_alike(fast, fitted(name, None))
    assert fast.passes._programs["d"]._programs == {}


def test_a_network_whose_layers_are_watched_is_not_compiled(programs):
    model = plain_gan(generator_penalties=[ActivityL1(1e-3, layers=["layers"])], engine=Engine(compile=True))
    assert model._eager("g")
    assert not model._eager("d")
