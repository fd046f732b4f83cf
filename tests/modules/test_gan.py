"""The two steps of the GAN, its average and its limits."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_advreg.constraints import MaxNorm, WeightClip
from lightning_advreg.objectives import LSGAN, WGAN, Hinge, NonSaturating
from lightning_advreg.penalties import L1, L2

from .parts import FROZEN, SHAPE, AtBatches, alone, fit_gan, plain_gan


def state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(before, after):
    return all(torch.equal(before[name], after[name]) for name in before)


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
    model = plain_gan(loss=loss)
    real = torch.rand(16, *SHAPE)
    of_discriminator, of_generator = FORMULAS[loss]
    for _ in range(3):  # the discriminator is not at its initial, nearly constant state
        for parameter in model.discriminator.parameters():
            parameter.data.mul_(2)
    torch.manual_seed(1)
    loss_d = alone(model, "discriminator_loss", real)
    torch.manual_seed(2)
    loss_g = alone(model, "generator_loss", real)
    torch.manual_seed(1)
    fake = model.generator(torch.randn(16, 4))
    # in double precision, since 1 - sigmoid loses digits that softplus keeps
    expected = of_discriminator(model.discriminator(real).double(), model.discriminator(fake).double())
    torch.testing.assert_close(loss_d.double(), expected, rtol=1e-5, atol=1e-6)
    torch.manual_seed(2)
    expected = of_generator(model.discriminator(model.generator(torch.randn(16, 4))).double())
    torch.testing.assert_close(loss_g.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", FORMULAS, ids=lambda loss: type(loss).__name__)
def test_every_loss_trains_both_networks(loss):
    model = plain_gan(loss=loss)
    before = state(model.generator), state(model.discriminator)
    metrics = fit_gan(model).callback_metrics
    assert not same(before[0], state(model.generator))
    assert not same(before[1], state(model.discriminator))
    assert torch.isfinite(metrics["train/d_loss"])
    assert torch.isfinite(metrics["train/g_loss"])


def test_penalties_are_added_and_logged():
    model = plain_gan(
        generator_penalties=[L1(0.1)],
        discriminator_penalties=[L2(0.2), L2("1/2")],
        generator_optimizer=FROZEN,
        discriminator_optimizer=FROZEN,
    )
    metrics = fit_gan(model, batches=1).callback_metrics
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
        self.seen, self.discriminator_gradients = [], []
        super().__init__(self.after)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        key = "d" if optimizer is trainer.optimizers[0] else "g"
        grads = {
            name: [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in getattr(module, name).parameters()]
            for name in ("generator", "discriminator", "generator_ema")
        }
        gradient = [p.grad.clone() for p in module.discriminator.parameters()]
        self.discriminator_gradients.append(gradient)
        self.seen.append((key, grads, state(module.generator), state(module.discriminator)))

    def after(self, trainer, module, batch):
        self.seen.append(("end", {}, state(module.generator), state(module.discriminator)))


def test_the_step_of_one_network_leaves_the_other_alone():
    model = plain_gan(n_critic=2)
    start = state(model.generator), state(model.discriminator)
    steps = Steps()
    fit_gan(model, batches=2, callbacks=[steps])
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
    _, of_second, of_generator_step = steps.discriminator_gradients
    assert all(torch.equal(*pair) for pair in zip(of_second, of_generator_step, strict=True))
    statistics = [name for name in start[0] if "running_mean" in name]
    assert statistics
    assert not any(torch.equal(start[0][name], last[2][name]) for name in statistics)
    assert not any(grads["generator_ema"][0] for _, grads, *_ in steps.seen if grads)


def test_batch_statistics_of_the_generator_are_those_of_the_batch_in_the_discriminators_step():
    model = plain_gan()
    model.generator.layers[1].running_mean.fill_(100.0)
    torch.manual_seed(0)
    with_wrong_statistics = alone(model, "discriminator_loss", torch.rand(8, *SHAPE).fill_(0.5))
    model.generator.layers[1].running_mean.zero_()
    torch.manual_seed(0)
    assert torch.equal(alone(model, "discriminator_loss", torch.rand(8, *SHAPE).fill_(0.5)), with_wrong_statistics)


def test_everything_needs_gradients_again_after_training():
    model = plain_gan()
    fit_gan(model)
    assert all(p.requires_grad for net in (model.generator, model.discriminator) for p in net.parameters())
    assert not any(p.requires_grad for p in model.generator_ema.parameters())


@pytest.mark.parametrize(("n_critic", "generator_steps"), [(1, 6), (3, 2), (4, 1)])
def test_the_generator_steps_every_n_critic_batches(n_critic, generator_steps):
    model = plain_gan(n_critic=n_critic)
    steps = Steps()
    # the count goes on over the end of an epoch: 3 batches, then 3 more
    fitting = fit_gan(model, batches=3, epochs=2, callbacks=[steps])
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
    model = plain_gan(generator=WithBuffers(), ema_decay=0.4, generator_optimizer=partial(torch.optim.SGD, lr=1.0))
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

    fit_gan(model, batches=6, callbacks=[AtBatches(see)])
    assert count == 6
    assert int(model.generator_ema.norm.num_batches_tracked) == 6
    assert not torch.equal(model.generator_ema.layer.weight, model.generator.layer.weight)


def test_with_decay_0_the_average_is_the_generator():
    model = plain_gan(ema_decay=0)
    pairs = []
    see = AtBatches(lambda t, m, b: pairs.append(same(state(m.generator), state(m.generator_ema))))
    fit_gan(model, callbacks=[see])
    assert pairs == [True] * 4


def test_the_average_moves_only_with_the_generator():
    model = plain_gan(n_critic=3)
    seen = []
    fit_gan(model, batches=3, callbacks=[AtBatches(lambda t, m, b: seen.append(state(m.generator_ema)))])
    assert same(seen[0], seen[1])
    assert not same(seen[1], seen[2])


def test_hard_limits_hold_for_both_networks_and_the_average():
    model = plain_gan(
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
    fit_gan(model, callbacks=[Watch()])
    assert len(seen) == 16
    generator_norm, average_norm, clipped = (max(column) for column in zip(*seen, strict=True))
    assert generator_norm <= 0.25 + 1e-6
    assert average_norm <= 0.25 + 1e-6
    assert clipped == pytest.approx(0.05, abs=1e-8)
