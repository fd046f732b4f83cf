from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import GAN
from lightning_advreg.callbacks import GeneratedSamples
from lightning_advreg.constraints import Budget, MaxNorm, WeightClip
from lightning_advreg.networks import DCGANDiscriminator, DCGANGenerator
from lightning_advreg.objectives import LSGAN, WGAN, Hinge, NonSaturating
from lightning_advreg.penalties import L1, L2

from .parts import SHAPE, AtBatches, digits, discriminator, gan, generator, trainer

frozen = partial(torch.optim.SGD, lr=0.0)
PLAIN = {
    "discriminator": discriminator,
    "generator_constraints": (),
    "discriminator_constraints": (),
    "discriminator_penalties": (),
    "generator_lr_scheduler": None,
    "discriminator_lr_scheduler": None,
    "instance_noise": 0,
    "n_critic": 1,
}


def plain(**settings):
    settings = {**PLAIN, **settings}
    if settings["discriminator"] is discriminator:
        settings["discriminator"] = discriminator()
    return gan(**settings)


def fit(model, *, batches=4, epochs=1, **settings):
    fitting = trainer(max_epochs=epochs, limit_train_batches=batches, limit_val_batches=0, **settings)
    fitting.fit(model, datamodule=digits())
    return fitting


def state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(before, after):
    return all(torch.equal(before[name], after[name]) for name in before)


def alone(model, method, *args):
    """Call a loss of the module outside training."""
    model.log = model.log_dict = lambda *a, **k: None
    return getattr(model, method)(*args)


FORMULAS = {
    NonSaturating(): (
        lambda r, f: -F.logsigmoid(r).mean() - (1 - f.sigmoid()).log().mean(),
        lambda f: -f.sigmoid().log().mean(),
    ),
    Hinge(): (lambda r, f: (1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean(), lambda f: -f.mean()),
    LSGAN(): (lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2, lambda f: ((f - 1) ** 2).mean() / 2),
    WGAN(): (lambda r, f: f.mean() - r.mean(), lambda f: -f.mean()),
}


@pytest.mark.parametrize("loss", FORMULAS, ids=lambda loss: type(loss).__name__)
def test_losses_of_both_steps_equal_their_formulas(loss):
    model = plain(loss=loss)
    real = torch.rand(16, *SHAPE)
    of_discriminator, of_generator = FORMULAS[loss]
    for _ in range(3):  # the discriminator is not at its initial, nearly constant state
        for parameter in model.discriminator.parameters():
            parameter.data.mul_(2)
    torch.manual_seed(1)
    loss_d = alone(model, "discriminator_loss", real)
    torch.manual_seed(2)
    loss_g = alone(model, "generator_loss", 16)
    torch.manual_seed(1)
    fake = model.generator(torch.randn(16, 4))
    torch.testing.assert_close(loss_d, of_discriminator(model.discriminator(real), model.discriminator(fake)))
    torch.manual_seed(2)
    torch.testing.assert_close(loss_g, of_generator(model.discriminator(model.generator(torch.randn(16, 4)))))


@pytest.mark.parametrize("loss", FORMULAS, ids=lambda loss: type(loss).__name__)
def test_every_loss_trains_both_networks(loss):
    model = plain(loss=loss)
    before = state(model.generator), state(model.discriminator)
    metrics = fit(model).callback_metrics
    assert not same(before[0], state(model.generator))
    assert not same(before[1], state(model.discriminator))
    assert torch.isfinite(metrics["train/d_loss"])
    assert torch.isfinite(metrics["train/g_loss"])


def test_penalties_are_added_and_logged():
    model = plain(
        generator_penalties=[L1(0.1)],
        discriminator_penalties=[L2(0.2), L2("1/2")],
        generator_optimizer=frozen,
        discriminator_optimizer=frozen,
    )
    metrics = fit(model, batches=1).callback_metrics
    squares = sum(w.square().sum() for w in model.discriminator.parameters() if w.dim() > 1)
    absolutes = sum(w.abs().sum() for w in model.generator.parameters() if w.dim() > 1)
    torch.testing.assert_close(metrics["train/d_penalty/l2"], 0.1 * squares.detach())
    torch.testing.assert_close(metrics["train/d_penalty/l2_2"], 0.25 * squares.detach())
    torch.testing.assert_close(metrics["train/g_penalty/l1"], 0.1 * absolutes.detach())
    # logits of a fresh discriminator are near 0, where the loss is 2 log 2: the rest is the penalties
    rest = metrics["train/d_loss"] - 0.35 * squares.detach()
    assert abs(float(rest) - 1.386) < 0.3
    assert abs(float(metrics["train/g_loss"] - 0.1 * absolutes.detach()) - 0.693) < 0.2


class Steps(AtBatches):
    """Look at a module right before each optimizer step, when gradients are there, and after the batch."""

    def __init__(self):
        self.seen = []
        super().__init__(self.after)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        key = "d" if optimizer is trainer.optimizers[0] else "g"
        grads = {
            name: [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in getattr(module, name).parameters()]
            for name in ("generator", "discriminator", "generator_ema")
        }
        self.seen.append((key, grads, state(module.generator), state(module.discriminator)))

    def after(self, trainer, module, batch):
        self.seen.append(("end", {}, state(module.generator), state(module.discriminator)))


def test_the_step_of_one_network_leaves_the_other_alone():
    model = plain(n_critic=2)
    start = state(model.generator), state(model.discriminator)
    steps = Steps()
    fit(model, batches=2, callbacks=[steps])
    assert [key for key, *_ in steps.seen] == ["d", "end", "d", "g", "end"]
    first, end, second, for_g, last = steps.seen
    # discriminator: no gradient reaches the generator, and its BatchNorm statistics stay
    for _, grads, generator_state, _ in (first, second):
        assert all(grads["discriminator"])
        assert not any(grads["generator"])
        assert same(start[0], generator_state)
    assert same(start[0], end[2])
    assert not same(start[1], end[3])
    # generator: the discriminator moved in its own step and not since
    assert all(for_g[1]["generator"])
    assert same(for_g[3], last[3])
    statistics = [name for name in start[0] if "running_mean" in name]
    assert statistics
    assert not any(torch.equal(start[0][name], last[2][name]) for name in statistics)
    assert not any(grads["generator_ema"][0] for _, grads, *_ in steps.seen if grads)


def test_batch_statistics_of_the_generator_are_those_of_the_batch_in_the_discriminators_step():
    model = plain()
    model.generator.layers[1].running_mean.fill_(100.0)
    torch.manual_seed(0)
    with_wrong_statistics = alone(model, "discriminator_loss", torch.rand(8, *SHAPE).fill_(0.5))
    model.generator.layers[1].running_mean.zero_()
    torch.manual_seed(0)
    assert torch.equal(alone(model, "discriminator_loss", torch.rand(8, *SHAPE).fill_(0.5)), with_wrong_statistics)


def test_everything_needs_gradients_again_after_training():
    model = plain()
    fit(model)
    assert all(p.requires_grad for net in (model.generator, model.discriminator) for p in net.parameters())
    assert not any(p.requires_grad for p in model.generator_ema.parameters())


@pytest.mark.parametrize(("n_critic", "generator_steps"), [(1, 6), (3, 2), (4, 1)])
def test_the_generator_steps_every_n_critic_batches(n_critic, generator_steps):
    model = plain(n_critic=n_critic)
    steps = Steps()
    # the count goes on over the end of an epoch: 3 batches, then 3 more
    fitting = fit(model, batches=3, epochs=2, callbacks=[steps])
    keys = [key for key, *_ in steps.seen]
    assert keys.count("d") == 6
    assert keys.count("g") == generator_steps == model.generator_steps
    assert model.batches_seen == 6
    assert model.images_seen == 96
    assert fitting.global_step == 6 + generator_steps


class WithBuffers(nn.Module):
    """A generator with a BatchNorm, whose counter of batches is an integer."""

    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 64), nn.BatchNorm1d(64)

    def forward(self, z):
        return self.norm(self.layer(z)).sigmoid().view(-1, *SHAPE)


def test_the_moving_average_equals_one_by_hand():
    model = plain(generator=WithBuffers(), ema_decay=0.4, generator_optimizer=partial(torch.optim.SGD, lr=1.0))
    average = [p.detach().clone() for p in model.generator.parameters()]
    count = 0

    def see(trainer, module, batch):
        nonlocal count
        count += 1
        decay = min(0.4, (1 + count) / (10 + count))
        for mean, now in zip(average, module.generator.parameters(), strict=True):
            mean.mul_(decay).add_(now.detach(), alpha=1 - decay)
        for mean, kept in zip(average, module.generator_ema.parameters(), strict=True):
            torch.testing.assert_close(kept.detach(), mean)
        for buffer, kept in zip(module.generator.buffers(), module.generator_ema.buffers(), strict=True):
            assert torch.equal(buffer, kept)
            assert buffer is not kept

    fit(model, batches=6, callbacks=[AtBatches(see)])
    assert count == 6
    assert int(model.generator_ema.norm.num_batches_tracked) == 6
    assert not torch.equal(model.generator_ema.layer.weight, model.generator.layer.weight)


def test_with_decay_0_the_average_is_the_generator():
    model = plain(ema_decay=0)
    pairs = []
    see = AtBatches(lambda t, m, b: pairs.append(same(state(m.generator), state(m.generator_ema))))
    fit(model, callbacks=[see])
    assert pairs == [True] * 4


def test_the_average_moves_only_with_the_generator():
    model = plain(n_critic=3)
    seen = []
    fit(model, batches=3, callbacks=[AtBatches(lambda t, m, b: seen.append(state(m.generator_ema)))])
    assert same(seen[0], seen[1])
    assert not same(seen[1], seen[2])


def test_hard_limits_hold_for_both_networks_and_the_average():
    model = plain(
        discriminator_constraints=[WeightClip("1/20")],
        generator_constraints=[MaxNorm(0.25)],
        generator_optimizer=partial(torch.optim.SGD, lr=10.0),
        discriminator_optimizer=partial(torch.optim.SGD, lr=10.0),
    )
    seen = []

    def measure(module):
        row_norms = [
            max(w.detach().norm(dim=1).max() for w in network.parameters() if w.dim() > 1)
            for network in (module.generator, module.generator_ema)
        ]
        clipped = max(w.detach().abs().max() for w in module.discriminator.parameters() if w.dim() > 1)
        seen.append([float(value) for value in (*row_norms, clipped)])

    class Watch(Steps):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            measure(module)

        def on_before_optimizer_step(self, trainer, module, optimizer):
            measure(module)  # before G's step, so D's is measured while G has not stepped

        def after(self, trainer, module, batch):
            measure(module)

    assert max(w.detach().norm(dim=1).max() for w in model.generator.parameters() if w.dim() > 1) > 0.25
    fit(model, callbacks=[Watch()])
    assert len(seen) == 16
    generator_norm, average_norm, clipped = (max(column) for column in zip(*seen, strict=True))
    assert generator_norm <= 0.25 + 1e-6
    assert average_norm <= 0.25 + 1e-6
    assert clipped == pytest.approx(0.05, abs=1e-8)


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_an_exceeded_budget_names_the_network(name):
    with pytest.raises(ValueError, match=f"{name} exceeds its budget: .* parameters used, 10 allowed"):
        gan(**{f"{name}_constraints": [Budget(parameters=10)]})


class Seen(nn.Module):
    """A discriminator that keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.shown = []

    def forward(self, x):
        self.shown.append(x.detach().clone())
        return (self.weight * x).flatten(1).mean(1)


class Grey(nn.Module):
    """A generator of grey images, so that all that differs from grey is noise."""

    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        return (self.weight * z.mean(1)).sigmoid().view(-1, 1, 1, 1).expand(-1, *SHAPE)


def test_instance_noise_falls_linearly_and_is_on_real_and_generated_images():
    model = plain(
        generator=Grey(),
        discriminator=Seen(),
        instance_noise="1/2",
        instance_noise_images=48,
        generator_optimizer=frozen,
        discriminator_optimizer=frozen,
    )
    grey = torch.full((64, *SHAPE), 0.5)
    data = DataLoader(TensorDataset(grey, torch.zeros(64, dtype=torch.int64)), batch_size=16)
    levels = []
    see = AtBatches(lambda t, m, b: levels.append(m.noise_level))
    fitting = trainer(callbacks=[see])
    fitting.fit(model, data)
    assert levels == pytest.approx([1 / 3, 1 / 6, 0, 0])
    # each batch: real and generated in D's step at one level, generated in G's step at the next; one check at the start
    shown = model.discriminator.shown[1:]
    assert len(shown) == 12
    expected = [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1 / 6, 1 / 6, 1 / 6, 0, 0, 0, 0]
    spread = [float((x - 0.5).std()) for x in shown]
    assert spread == pytest.approx(expected, abs=0.03)
    assert spread[-4:] == [0.0] * 4
    model.discriminator.shown.clear()
    model.images_seen = 0
    assert model.noise_level == 0.5
    fitting.validate(model, data, verbose=False)
    fitting.test(model, data, verbose=False)
    assert all(torch.equal(x, grey[: len(x)]) for x in model.discriminator.shown)


def test_the_level_of_the_noise_is_logged():
    model = plain(instance_noise=0.3, instance_noise_images=160)
    fitting = fit(model, batches=2)
    # the generator's step of the second batch, after 32 images
    assert float(fitting.callback_metrics["train/instance_noise"]) == pytest.approx(0.3 * 0.8)
    assert "train/instance_noise" not in fit(plain()).callback_metrics


def test_dropout_of_the_discriminator_is_on_in_training_and_off_in_validation():
    model = plain(discriminator=discriminator(dropout=0.5), generator_optimizer=frozen, discriminator_optimizer=frozen)
    fitting = trainer()
    a, b = (fitting.validate(model, datamodule=digits(), verbose=False)[0]["val/d_real"] for _ in range(2))
    assert a == b
    model.train()
    real = torch.rand(8, *SHAPE)
    torch.manual_seed(0)
    first = alone(model, "_score", real)
    assert not torch.equal(first, alone(model, "_score", real))


def test_held_out_logits_equal_a_direct_computation():
    model = plain()
    fit(model)
    data = digits(eval_batch_size=5)
    (found,) = trainer().validate(model, datamodule=data, verbose=False)
    x = torch.cat([x for x, _ in data.val_dataloader()])
    assert found["val/d_real"] == pytest.approx(model.discriminator.eval()(x).mean().item(), rel=1e-5)
    assert set(trainer().test(model, datamodule=data, verbose=False)[0]) == {"test/d_real", "test/d_fake"}


def test_samples_come_from_the_average_in_eval_mode_without_gradients():
    model = plain(num_fixed=5)
    fit(model)
    model.train()
    images = model.sample(model.fixed_latent)
    assert images.shape == (5, *SHAPE)
    assert not images.requires_grad
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    # eval mode: an image does not depend on the others in its batch
    torch.testing.assert_close(model.sample(model.fixed_latent[:1]), images[:1])
    torch.testing.assert_close(model.generator_ema.eval()(model.fixed_latent), images)
    assert torch.equal(model(model.fixed_latent), images)
    assert model.generator.training


def test_the_fixed_latent_vectors_stay():
    model = plain()
    before = model.fixed_latent.clone()
    fit(model)
    assert torch.equal(model.fixed_latent, before)
    assert "fixed_latent" in model.state_dict()


def test_the_pictures_of_a_run(tmp_path):
    fit(gan(), callbacks=[GeneratedSamples(num_images=3)], default_root_dir=tmp_path)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["samples_000001.png"]


def test_dcgan_networks_train():
    shape = (1, 16, 16)
    model = plain(
        generator=DCGANGenerator(latent_dim=4, image_shape=shape, width=4),
        discriminator=DCGANDiscriminator(image_shape=shape, width=4, dropout=0.2),
    )
    data = DataLoader(TensorDataset(torch.rand(16, *shape), torch.zeros(16)), batch_size=8)
    trainer().fit(model, data)
    assert model.sample(model.fixed_latent).shape == (3, *shape)


BAD = {
    "n_critic": [(0, "at least 1, got 0"), (1.5, "integer of at least 1, got 1.5"), (True, "integer")],
    "ema_decay": [(1, "less than 1, got 1"), (-0.1, "at least 0, got -0.1"), ("x", "number")],
    "instance_noise": [(-1, "at least 0"), ("1:2", "number such as")],
    "instance_noise_images": [(0, "at least 1")],
    "num_fixed": [(0, "at least 1")],
    "latent_dim": [(0, "at least 1")],
}


@pytest.mark.parametrize(("name", "value", "message"), [(name, *case) for name, cases in BAD.items() for case in cases])
def test_bad_numbers_are_refused(name, value, message):
    with pytest.raises(ValueError, match=f"{name} must be .*{message}|{name} {message}"):
        gan(**{name: value})


def test_the_length_of_the_noise_must_be_known():
    with pytest.raises(ValueError, match=r"Linear has no attribute latent_dim; give GAN\(latent_dim=\.\.\.\)"):
        GAN(nn.Linear(4, 64), discriminator())
    net = nn.Sequential(nn.Linear(4, 64), nn.Sigmoid(), nn.Unflatten(1, SHAPE))
    assert GAN(net, discriminator(), latent_dim=4).sample(torch.randn(2, 4)).shape == (2, *SHAPE)


class Sketch(nn.Module):
    """A generator whose images have a shape and a range of its own."""

    latent_dim = 4

    def __init__(self, shape=SHAPE, scale=1.0):
        super().__init__()
        self.layer, self.shape, self.scale = nn.Linear(4, 1), shape, scale

    def forward(self, z):
        return self.scale * self.layer(z).sigmoid().view(-1, 1, 1, 1).expand(-1, *self.shape)


NETWORKS = {
    "generator's shape": (
        {"generator": Sketch((1, 9, 9))},
        r"generator makes images of shape \(1, 9, 9\), the data has \(1, 8, 8\); set the generator's image_shape",
    ),
    "generator's range": ({"generator": Sketch(scale=255)}, r"images must lie in \[0, 1\]"),
    "discriminator's shape": ({"discriminator": discriminator(image_shape=(1, 9, 9))}, r"\(N, 1, 9, 9\)"),
    "discriminator's logits": (
        {"discriminator": nn.Sequential(nn.Flatten(), nn.Linear(64, 2))},
        r"discriminator gives outputs of shape \(2, 2\) for 2 images; it must give one logit per image",
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_that_do_not_fit_are_refused(case):
    settings, message = NETWORKS[case]
    with pytest.raises(ValueError, match=message):
        fit(plain(**settings))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(8, *SHAPE) * 2 - 1, ValueError, r"images must lie in \[0, 1\], got values from -"),
        (torch.ones(8, *SHAPE, dtype=torch.uint8), TypeError, "images must be floating point in"),
    ],
)
def test_bad_images_are_refused(images, error, message):
    data = DataLoader(TensorDataset(images, torch.zeros(8)), batch_size=4)
    with pytest.raises(error, match=message):
        trainer().fit(plain(), data)


def test_a_column_of_logits_will_do():
    model = plain(discriminator=nn.Sequential(nn.Flatten(), nn.Linear(64, 1)))
    fit(model, batches=1)
    assert alone(model, "_score", torch.rand(3, *SHAPE)).shape == (3,)
