"""What can be switched on in the steps of the GAN."""

import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.objectives import RpGAN
from lightning_advreg.penalties import R1, ActivityL1, GradientPenalty, LeCam
from lightning_advreg.schedules import Ramp

from .gan_parts import ConditionalGenerator, SplitDiscriminator, conditional_gan, labelled
from .parts import FROZEN, SHAPE, AtBatches, alone, discriminator, fit_gan, generator, plain_gan, trainer

SGD = partial(torch.optim.SGD, lr=0.5)


def fit(model, data=None, **settings):
    fitting = trainer(limit_val_batches=0, **settings)
    fitting.fit(model, labelled() if data is None else data)
    return fitting


def test_feature_matching_is_the_distance_of_mean_features():
    net, x = SplitDiscriminator(), torch.rand(5, *SHAPE)
    model = plain_gan(discriminator=net, feature_matching="3/2")
    torch.manual_seed(1)
    value = alone(model, "generator_loss", x)
    torch.manual_seed(1)
    fake = model.generator(torch.randn(5, 4))
    distance = (net.features(fake).mean(0) - net.features(x).mean(0)).square().sum()
    torch.testing.assert_close(value, model.loss.generator(net(fake)) + 1.5 * distance)


def test_feature_matching_needs_features():
    with pytest.raises(ValueError, match=r"feature_matching needs the features .*Sequential does not show them; split"):
        plain_gan(discriminator=nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), feature_matching=1)


def test_real_images_are_scored_in_the_generators_step_only_where_they_are_needed():
    for settings, passes in (({}, 3), ({"loss": RpGAN()}, 4), ({"feature_matching": 1}, 4)):
        model, counts = plain_gan(discriminator=SplitDiscriminator(), **settings), []
        fit(model, callbacks=[AtBatches(lambda t, m, b, counts=counts: counts.append(len(m.discriminator.shown)))])
        assert [b - a for a, b in pairwise(counts)] == [passes] * 3


def test_the_relativistic_loss_of_the_module_is_that_of_pairs():
    net, x = SplitDiscriminator(), torch.rand(5, *SHAPE)
    model = plain_gan(discriminator=net, loss=RpGAN())
    torch.manual_seed(1)
    value = alone(model, "generator_loss", x)
    torch.manual_seed(1)
    fake = model.generator(torch.randn(5, 4))
    torch.testing.assert_close(value, nn.functional.softplus(net(x) - net(fake)).mean())


def test_an_adaptive_augmentation_hears_of_real_logits_once_a_step():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.heard, self.seen = [], 0

        def forward(self, images):
            self.seen += len(images)
            return images

        def update_(self, real_logits):
            self.heard.append(real_logits)

    augmentation, net = Counting(), SplitDiscriminator()
    model = plain_gan(discriminator=net, discriminator_augmentation=augmentation, discriminator_optimizer=FROZEN)
    fit(model)
    assert [logits.requires_grad for logits in augmentation.heard] == [False] * 4
    # real and generated in the one step, generated in the other
    assert augmentation.seen == 3 * sum(len(logits) for logits in augmentation.heard)
    torch.testing.assert_close(augmentation.heard[0], net(labelled().dataset[:8][0]).detach())


@pytest.mark.parametrize("loss", [None, RpGAN()])
def test_the_generator_learns_from_the_best_share(loss):
    net, x = SplitDiscriminator(), torch.rand(8, *SHAPE)
    model = plain_gan(discriminator=net, top_k="3/8", loss=loss)
    torch.manual_seed(1)
    value = alone(model, "generator_loss", x)
    torch.manual_seed(1)
    logits, real = net(model.generator(torch.randn(8, 4))), net(x)
    best = logits.argsort(descending=True)[:3]
    torch.testing.assert_close(value, model.loss.generator(logits[best], real[best]))


def test_the_share_follows_its_schedule_and_keeps_one_image_at_least():
    model, shares = plain_gan(top_k=Ramp(epochs=2, start=1, end=0.5)), []

    def see(t, m, batch):
        best = m._best(torch.arange(8.0))
        shares.append(8 if isinstance(best, slice) else len(best))

    fit(model, max_epochs=3, callbacks=[AtBatches(see)])
    assert shares == [8, 8, 7, 6, 6, 6, 5, 4, 4, 4, 4, 4]
    assert len(plain_gan(top_k=0.01)._best(torch.arange(8.0))) == 1


def flip(x):
    return x.flip(-1) / 2


def test_the_augmentation_is_on_all_that_the_discriminator_sees_in_training_and_the_generator_learns_through_it():
    net = SplitDiscriminator()
    model = plain_gan(
        discriminator=net,
        loss=RpGAN(),
        discriminator_augmentation=flip,
        generator_optimizer=FROZEN,
        discriminator_optimizer=FROZEN,
    )
    fakes = []
    model.generator.register_forward_hook(lambda m, a, out: fakes.append(out.detach()))
    data = labelled(8)
    fit(model, data)
    x = data.dataset.tensors[0]
    # the first pass checks the batch, without augmentation
    expected = [flip(x), flip(fakes[1]), flip(fakes[2]), flip(x)]
    assert all(torch.equal(*pair) for pair in zip(net.shown[1:], expected, strict=True))
    net.shown.clear()
    trainer().validate(model, data, verbose=False)
    assert torch.equal(net.shown[1], x)
    torch.manual_seed(0)
    loss = alone(model, "generator_loss", x)
    assert torch.autograd.grad(loss, model.generator.layers[0].weight)[0].abs().sum() > 0


def ends(settings, data, **more):
    """Train without chance but for the noise, which is one stream whatever the batches are."""
    torch.manual_seed(0)
    networks = {"generator": generator(norm="none"), "discriminator": discriminator()}
    optimizers = {"generator_optimizer": SGD, "discriminator_optimizer": SGD}
    model = plain_gan(**networks, **optimizers, **settings)
    noise = torch.randn(256, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    drawn = {True: 0, False: 0}

    def draw(count):
        # the two steps draw from streams of their own, so that the order of their passes does not matter
        of_d = next(model.discriminator.parameters()).requires_grad
        drawn[of_d] += count
        start = drawn[of_d] - count + (0 if of_d else 128)
        return noise[start : start + count]

    check, model.check_batch = model.check_batch, lambda *a: None
    model.noise = draw
    fit(model, data, precision="64-true", **more)
    model.check_batch = check
    return model


@pytest.mark.parametrize("loss", [None, RpGAN()])
@pytest.mark.parametrize("n_critic", [1, 2])
def test_accumulated_batches_are_one_large_batch(n_critic, loss):
    settings = {"n_critic": n_critic, "loss": loss}
    large = ends(settings, labelled(64, 16))
    small = ends({**settings, "accumulate_grad_batches": 4}, labelled(64, 4))
    for a, b in zip(large.parameters(), small.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert small.batches_seen == 16
    assert small.discriminator_steps == large.discriminator_steps == 4
    assert small.generator_steps == large.generator_steps == 4 // n_critic
    assert small.images_seen == large.images_seen == 64


def test_the_last_step_of_an_epoch_may_have_fewer_batches():
    model = plain_gan(accumulate_grad_batches=3)
    fitting = fit(model, max_epochs=2)
    assert model.discriminator_steps == model.generator_steps == 4
    assert fitting.global_step == 8
    assert model.batches_seen == 8


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_of_each_network_are_clipped_before_its_step(algorithm):
    model = plain_gan(
        gradient_clip_val="1/100",
        gradient_clip_algorithm=algorithm,
        generator_optimizer=SGD,
        discriminator_optimizer=SGD,
    )
    before = {key: [p.detach().clone() for p in getattr(model, key).parameters()] for key in NAMES}
    fit(model, limit_train_batches=1)
    for key in NAMES:
        moves = [(p - q).detach() for p, q in zip(getattr(model, key).parameters(), before[key], strict=True)]
        flat = torch.cat([m.flatten() for m in moves])
        size = flat.norm() if algorithm == "norm" else flat.abs().max()
        assert float(size) == pytest.approx(0.5 * 0.01, rel=1e-3)


NAMES = ("generator", "discriminator")


@pytest.mark.parametrize("setting", [{"gradient_clip_val": 0.5}, {"accumulate_grad_batches": 2}])
def test_settings_of_the_trainer_that_have_no_effect_name_those_of_the_module(setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=rf"Trainer\({name}={value}\) has no effect .* GAN\({name}={value}\)"):
        fit(plain_gan(), **setting)


def test_standing_statistics_are_those_of_many_batches_of_the_average():
    model = conditional_gan(generator=ConditionalGenerator(batch_norm=True), standing_statistics=200)
    fit(model)
    # what was there before counts for nothing
    model.generator_ema.norm.running_mean.fill_(100.0)
    state = torch.get_rng_state()
    first = model.sample(model.fixed_latent, model.fixed_labels)
    norm, net = model.generator_ema.norm, model.generator_ema
    with torch.no_grad():
        x = torch.randn(20000, 4) + net.embedding(torch.randint(3, (20000,)))
    torch.testing.assert_close(norm.running_mean, x.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(norm.running_var, x.var(0), rtol=0.05, atol=0)
    assert norm.momentum == 0.1
    assert not norm.training
    torch.set_rng_state(state)
    assert torch.equal(model.sample(model.fixed_latent, model.fixed_labels), first)
    assert torch.equal(torch.get_rng_state(), state)
    # what training goes on with is as it was
    assert not torch.allclose(model.generator.norm.running_mean, norm.running_mean)


def test_standing_statistics_are_taken_again_when_the_weights_have_moved():
    model, count = plain_gan(standing_statistics=1, generator_optimizer=SGD), []
    model.generator_ema.register_forward_hook(lambda m, a, out: count.append(len(out)))
    z = torch.randn(2, 4)
    for _ in range(2):
        model.sample(z)
    assert count == [64, 2, 2]
    fit(model, limit_train_batches=1)
    model.sample(z)
    assert count[3:] == [64, 2]
    model.load_state_dict(model.state_dict())
    model.sample(z)
    assert count[5:] == [64, 2]


def test_sampling_with_standing_statistics_does_not_change_training():
    states = []
    for sampled in (False, True):
        torch.manual_seed(0)
        model = plain_gan(standing_statistics=2)
        look = AtBatches(lambda t, m, b, sampled=sampled: m.sample(m.fixed_latent) if sampled else None)
        fit_gan(model, callbacks=[look])
        states.append({k: v for k, v in model.state_dict().items() if "running" not in k or "ema" not in k})
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0] if "num_batches" not in key)


def test_half_precision_trains_with_penalties_in_float32():
    model = plain_gan(critic_penalties=[R1(1.0), GradientPenalty(1.0), LeCam(start_step=0)], loss=RpGAN())
    dtypes = []
    for penalty in list(model.critic_penalties.values())[:2]:
        terms = type(penalty).terms
        object.__setattr__(
            penalty, "terms", lambda p, f=terms, s=penalty: [dtypes.append(t.dtype) or t for t in f(s, p)]
        )
    metrics = fit(model, precision="bf16-mixed").callback_metrics
    assert dtypes == [torch.float32] * 8
    assert all(v.isfinite() for v in metrics.values())
    assert all(p.isfinite().all() for p in model.parameters())


BAD = {
    "feature_matching": (-1, "at least 0"),
    "top_k": (0, "more than 0, got 0; 1 keeps all"),
    "accumulate_grad_batches": (0, "an integer of at least 1, got 0"),
    "gradient_clip_val": (0, "more than 0, got 0; None switches it off"),
    "gradient_clip_algorithm": ("max", "one of norm, value, got 'max'"),
    "standing_statistics": (-1, "an integer of at least 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_numbers_are_refused(name):
    value, message = BAD[name]
    with pytest.raises(ValueError, match=f"{name} must be {message}"):
        plain_gan(**{name: value})


def test_reused_images_are_the_loop_that_people_write():
    """Both steps of a batch see one set of images, from one pass of the generator."""
    torch.manual_seed(0)
    model = plain_gan(reuse_generated=True, discriminator_optimizer=SGD, generator_optimizer=SGD)
    net_g, net_d = copy.deepcopy(model.generator), copy.deepcopy(model.discriminator)
    batches = [x for x, _ in DataLoader(TensorDataset(torch.rand(16, *SHAPE), torch.zeros(16)), batch_size=8)]
    passes, given = [], []
    model.generator.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    model.noise = lambda count: given.append(torch.randn(count, 4)) or given[-1]
    data = DataLoader(TensorDataset(torch.cat(batches), torch.zeros(16)), batch_size=8)
    trainer(limit_val_batches=0).fit(model, data)
    # the first is of the check of the batch
    assert passes[1:] == [True, True]
    steps = [SGD(net.parameters()) for net in (net_d, net_g)]
    for x, z in zip(batches, given[1:], strict=True):
        fake = net_g(z)
        steps[0].zero_grad()
        (F.softplus(-net_d(x)).mean() + F.softplus(net_d(fake.detach())).mean()).backward()
        steps[0].step()
        steps[1].zero_grad()
        F.softplus(-net_d(fake)).mean().backward()
        steps[1].step()
    for net, own in ((net_g, model.generator), (net_d, model.discriminator)):
        for one, other in zip(net.parameters(), own.parameters(), strict=True):
            torch.testing.assert_close(one, other)


def test_reused_images_are_those_of_the_last_of_several_discriminator_steps():
    model = plain_gan(reuse_generated=True, n_critic=2)
    passes = []
    model.generator.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    fit_gan(model, batches=4)
    assert passes[1:] == [False, True, False, True]


@pytest.mark.parametrize(
    "settings", [{"accumulate_grad_batches": 2}, {"generator_penalties": [ActivityL1(1e-3, layers=["layers"])]}]
)
def test_images_are_not_reused_where_a_pass_of_their_own_is_needed(settings):
    with pytest.raises(ValueError, match="reuse_generated=True keeps the images of one batch alone"):
        plain_gan(reuse_generated=True, **settings)
