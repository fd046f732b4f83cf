"""Critic penalties in training."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from lightning_advreg import GAN
from lightning_advreg.penalties import DRAGAN, R1, R2, ActivityL1, Consistency, GradientPenalty, LeCam
from lightning_advreg.schedules import Ramp

from .gan_parts import CLASSES, SplitDiscriminator, conditional_gan, labelled
from .parts import FROZEN, SHAPE, discriminator, plain_gan, trainer

SGD = partial(torch.optim.SGD, lr=0.1)


class LinearCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 1)
        self.passes = []

    def forward(self, x):
        self.passes.append(torch.is_grad_enabled())
        return self.layer(x.flatten(1)).squeeze(1)


def fit(model, data=None, **settings):
    fitting = trainer(limit_val_batches=0, **settings)
    fitting.fit(model, labelled() if data is None else data)
    return fitting


def critic_gan(**settings):
    torch.manual_seed(0)
    defaults = {"discriminator": LinearCritic(), "generator_optimizer": FROZEN, "discriminator_optimizer": FROZEN}
    return plain_gan(**{**defaults, **settings})


def test_values_are_logged_and_their_gradients_reach_the_weights():
    ends, settings = [], {"generator_optimizer": FROZEN, "discriminator_optimizer": SGD}
    for penalties in ([], [R1(3.0), R2(1.0), GradientPenalty(2.0)]):
        model = critic_gan(critic_penalties=penalties, **settings)
        w = model.discriminator.layer.weight.detach().clone().requires_grad_()
        torch.manual_seed(1)
        metrics = fit(model, limit_train_batches=1).callback_metrics
        ends.append(model.discriminator.layer.weight.detach())
    squares = w.square().sum()
    total = 2 * squares + 2 * (squares.sqrt() - 1) ** 2
    (gradient,) = torch.autograd.grad(total, w)
    torch.testing.assert_close(ends[1], ends[0] - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metrics["train/d_penalty/r1"], 1.5 * squares.detach())
    torch.testing.assert_close(metrics["train/d_penalty/r1_raw"], 0.5 * squares.detach())
    torch.testing.assert_close(metrics["train/d_penalty/r2"], 0.5 * squares.detach())
    torch.testing.assert_close(metrics["train/d_penalty/gradientpenalty_raw"], (squares.detach().sqrt() - 1) ** 2)


@pytest.mark.parametrize(
    ("penalties", "precision", "passes"),
    [
        ([], "32-true", 3),
        ([R1(1.0), R2(1.0), LeCam(start_step=0)], "32-true", 3),
        ([R1(1.0)], "bf16-mixed", 4),
        ([GradientPenalty(1.0), DRAGAN(1.0)], "32-true", 5),
        ([Consistency(augmentation=torch.clone)], "32-true", 4),
        ([Consistency(augmentation=torch.clone, balanced=True)], "bf16-mixed", 5),
        ([GradientPenalty(Ramp(epochs=1, start_epoch=5))], "32-true", 3),
    ],
)
def test_no_pass_is_run_that_is_not_needed(penalties, precision, passes):
    model = critic_gan(critic_penalties=penalties)
    fit(model, limit_train_batches=1, precision=precision)
    assert len(model.discriminator.passes) - 1 == passes  # one of them checks the batch


def test_a_lazy_penalty_counts_steps_of_the_discriminator_also_after_a_restart(tmp_path):
    due = []

    def watched():
        model = critic_gan(critic_penalties=[R1(1.0, every=3)], n_critic=2, accumulate_grad_batches=2)
        penalty = model.critic_penalties["r1"]
        terms = penalty.terms
        object.__setattr__(penalty, "terms", lambda p: due.append(model.batches_seen) or terms(p))
        return model

    fit(watched(), labelled(64)).save_checkpoint(tmp_path / "at8.ckpt")
    more = trainer(limit_val_batches=0, max_epochs=2)
    more.fit(watched(), labelled(64), ckpt_path=tmp_path / "at8.ckpt", weights_only=True)
    # both batches of the steps 0, 3 and 6
    assert due == [0, 1, 6, 7, 12, 13]


def test_penalties_see_what_the_discriminator_is_shown():
    shown = []

    def penalty(network, real, fake, y):
        shown.append((real.detach(), fake.detach(), y))
        return real.new_zeros(())

    model = conditional_gan(critic_penalties=[penalty], discriminator_augmentation=lambda x: x / 2)
    fit(model, limit_train_batches=1)
    ((real, fake, y),) = shown
    assert torch.equal(real, model.discriminator.shown[1])
    assert torch.equal(fake, model.discriminator.shown[2])
    assert torch.equal(y, next(iter(labelled()))[1])


def test_a_function_must_give_a_scalar():
    with pytest.raises(TypeError, match=r"penalty 'rows' must give a scalar tensor, got a tensor of shape \(8,\)"):

        def rows(network, real, fake, y):
            return network(real)

        fit(critic_gan(critic_penalties=[rows]))


def test_activities_are_those_of_the_loss_alone():
    values = []
    for penalties in ([], [GradientPenalty(1.0)]):
        torch.manual_seed(0)
        net = discriminator()
        model = critic_gan(
            discriminator=net, discriminator_penalties=[ActivityL1(1.0, layers="*")], critic_penalties=penalties
        )
        torch.manual_seed(1)
        values.append(fit(model, limit_train_batches=1).callback_metrics["train/d_penalty/activityl1"])
    torch.testing.assert_close(*values)


def test_batch_norm_is_refused_when_the_module_is_built_and_when_a_callback_brings_it():
    class BringNorm(Callback):
        def setup(self, trainer, module, stage):
            module.discriminator = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 1))

    with pytest.raises(ValueError, match="R1 and BatchNorm do not go together"):
        critic_gan(discriminator=nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)), critic_penalties=[R1()])
    with pytest.raises(ValueError, match="R1 and BatchNorm do not go together"):
        fit(critic_gan(critic_penalties=[R1()]), callbacks=[BringNorm()])


def test_lecam_has_a_state_of_its_own_that_checkpoints_keep(tmp_path):
    shared = LeCam(start_step=2)
    model = conditional_gan(critic_penalties=[shared])
    fitting = fit(model)
    kept = model.critic_penalties["lecam"]
    assert int(kept.seen) == 4
    assert int(shared.seen) == 0
    fitting.save_checkpoint(tmp_path / "with.ckpt")
    networks = {"generator": model.generator, "discriminator": SplitDiscriminator(CLASSES)}
    again = GAN.load_from_checkpoint(tmp_path / "with.ckpt", **networks)
    assert again.critic_penalties["lecam"].start_step == 2
    assert torch.equal(again.critic_penalties["lecam"].averages, kept.averages)
    # a run may go on with other penalties
    GAN.load_from_checkpoint(tmp_path / "with.ckpt", critic_penalties=[], **networks)
    fit(conditional_gan()).save_checkpoint(tmp_path / "without.ckpt")
    GAN.load_from_checkpoint(tmp_path / "without.ckpt", critic_penalties=[LeCam()], **networks)


def test_vectors_of_spectral_norm_move_in_training_alone():
    net = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(64, 1)))
    model = critic_gan(discriminator=net, critic_penalties=[R1(1.0)], generator_optimizer=SGD)
    u = net[1].parametrizations.weight[0]._u
    fit(model, limit_train_batches=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trainer().validate(model, labelled(), verbose=False)
    model.check_batch(torch.rand(4, *SHAPE))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert u.isfinite().all()
