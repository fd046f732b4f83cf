"""The GAN monitor in training: what it catches, and that it is silent and leaves no trace otherwise."""

import json
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_advreg import GAN
from lightning_advreg.callbacks import GANMonitor, gan_measurements
from lightning_advreg.callbacks.convergence_rules import Alarm
from lightning_advreg.networks import MLPGenerator

from ..modules.parts import SHAPE, AtBatches, digits, discriminator, generator, plain_gan, trainer
from .foreign import Foreign, loader

OFTEN = {"every_n_batches": 5, "warmup": 0}


class Deaf(MLPGenerator):
    """Makes the same image of any noise."""

    def forward(self, z):
        return super().forward(torch.zeros_like(z))


class Bomb(MLPGenerator):
    """Gives nothing but nan after so many calls in training."""

    calls, fuse = 0, 13

    def forward(self, z):
        if self.training and torch.is_grad_enabled():
            self.calls += 1
        return super().forward(z) * (float("nan") if self.calls > self.fuse else 1.0)


def lively(**settings):
    torch.manual_seed(0)
    sizes = {"latent_dim": 8, "image_shape": SHAPE, "hidden": (32,)}
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999))
    return plain_gan(
        **{
            "generator": MLPGenerator(**sizes),
            "discriminator": discriminator(hidden=(32,)),
            "instance_noise": 0.1,
            "generator_optimizer": adam,
            "discriminator_optimizer": adam,
            **settings,
        }
    )


def fit(monitor, model, epochs=1, train_size=400, **settings):
    fitting = trainer(callbacks=[monitor], max_epochs=epochs, limit_val_batches=0, **settings)
    fitting.fit(model, datamodule=digits(train_size=train_size))
    return fitting


def names(monitor):
    return [alarm.name for alarm in monitor.alarms]


def test_a_healthy_run_is_silent_and_logs_what_was_seen(tmp_path):
    monitor = GANMonitor(every_n_batches=5, warmup=50)
    logger = CSVLogger(tmp_path, name="", version="")
    fitting = fit(monitor, lively(), epochs=4, logger=logger)
    assert monitor.alarms == [] and monitor.stop_reason is None
    assert json.loads((tmp_path / "alarms.json").read_text()) == {"alarms": [], "stop_reason": None}
    logged = fitting.callback_metrics
    assert 0.25 < float(logged["monitor/diversity"]) < 1.5
    assert 0 <= float(logged["monitor/told_apart"]) <= 1
    assert float(logged["monitor/g_grad_norm"]) > 0 and float(logged["monitor/alarms"]) == 0


def test_a_generator_that_ignores_its_noise_is_caught_within_an_epoch(tmp_path):
    deaf = Deaf(latent_dim=8, image_shape=SHAPE, hidden=(32,), norm="none")
    monitor, logger = GANMonitor(**OFTEN), CSVLogger(tmp_path, name="", version="")
    with pytest.warns(UserWarning, match=r"samples are 0 % as far from the nearest .*: mode collapse"):
        fit(monitor, lively(generator=deaf), logger=logger)
    assert names(monitor)[0] == "mode_collapse" and monitor.alarms[0].epoch == 0
    # the fourth look, two steps a batch
    assert monitor.alarms[0].step == 40
    written = json.loads((tmp_path / "alarms.json").read_text())
    assert written["alarms"][0]["message"] == monitor.alarms[0].message and written["stop_reason"] is None


def test_a_learning_rate_that_is_too_high_makes_a_collapse_that_stops_the_run():
    torch.manual_seed(0)
    wide = MLPGenerator(latent_dim=8, image_shape=SHAPE, hidden=(128, 128))
    adam = partial(torch.optim.Adam, lr=0.1)
    monitor = GANMonitor(action="stop", **OFTEN)
    with pytest.warns(UserWarning, match=r"mode collapse.*Training stops\."):
        fitting = fit(monitor, lively(generator=wide, generator_optimizer=adam, instance_noise=0), train_size=800)
    assert names(monitor) == ["mode_collapse"] and monitor.stop_reason.endswith("Training stops.")
    assert fitting.global_step < 2 * 50


def test_new_generators_are_not_judged():
    deaf = Deaf(latent_dim=8, image_shape=SHAPE, hidden=(32,), norm="none")
    monitor = GANMonitor(every_n_batches=5, warmup=1000)
    fit(monitor, lively(generator=deaf))
    assert "mode_collapse" not in names(monitor)


def test_a_discriminator_that_wins_is_caught():
    frozen = partial(torch.optim.SGD, lr=0.0)
    strong = partial(torch.optim.Adam, lr=2e-2)
    model = lively(generator_optimizer=frozen, discriminator_optimizer=strong, instance_noise=0)
    monitor = GANMonitor(**OFTEN)
    with pytest.warns(UserWarning, match="the discriminator is overpowering. Lower its learning rate"):
        fit(monitor, model, epochs=2)
    assert names(monitor) == ["discriminator_overpowering"]


def test_a_gradient_that_vanishes_is_caught():
    def weaken(running, module, batch):
        if module.batches_seen == 26:
            with torch.no_grad():
                module.discriminator.layers[-1].weight.mul_(1e-4)

    still = partial(torch.optim.SGD, lr=0.0)
    model = lively(generator_optimizer=still, discriminator_optimizer=still, instance_noise=0)
    monitor = GANMonitor(every_n_batches=5)
    with pytest.warns(UserWarning, match="less than 2 % in 4 looks.*no longer learns"):
        fitting = trainer(callbacks=[monitor, AtBatches(weaken)], max_epochs=2, limit_val_batches=0)
        fitting.fit(model, datamodule=digits(train_size=400))
    assert names(monitor) == ["vanishing_generator_gradient"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch():
    bomb = Bomb(latent_dim=8, image_shape=SHAPE, hidden=(32,))
    monitor = GANMonitor(every_n_batches=5)
    with pytest.warns(UserWarning, match="loss of batch 13 was infinite or not a number.*seen after batch 14"):
        fitting = fit(monitor, lively(generator=bomb))
    assert names(monitor) == ["non_finite_loss"] and monitor.stop_reason == monitor.alarms[0].message
    assert fitting.global_step == 2 * 15


def test_weights_that_are_not_finite_stop_the_run():
    def break_it(running, module, batch):
        if module.batches_seen == 10:
            next(module.discriminator.parameters()).data.fill_(float("inf"))

    monitor = GANMonitor(every_n_batches=10)
    with pytest.warns(UserWarning, match="weights of the generator or the discriminator are infinite .* after batch 9"):
        fitting = trainer(callbacks=[AtBatches(break_it), monitor], limit_val_batches=0)
        fitting.fit(lively(), datamodule=digits(train_size=400))
    assert fitting.global_step == 20


def test_training_is_bitwise_the_same_with_and_without_it():
    def train(*callbacks):
        torch.manual_seed(0)
        model = lively(generator=generator(), discriminator=discriminator(dropout=0.3))
        trainer(callbacks=list(callbacks), max_epochs=2, limit_val_batches=0).fit(model, datamodule=digits())
        return model.state_dict()

    without, with_it = train(), train(GANMonitor(every_n_batches=2))
    assert all(torch.equal(value, with_it[name]) for name, value in without.items())


def test_a_resumed_run_sees_what_the_whole_run_sees(tmp_path):
    def monitored(epochs, ckpt_path=None):
        monitor = GANMonitor(every_n_batches=4, warmup=0)
        fitting = trainer(callbacks=[monitor], max_epochs=epochs, limit_val_batches=0)
        fitting.fit(lively(), datamodule=digits(), ckpt_path=ckpt_path)
        return fitting, monitor

    _, whole = monitored(4)
    first, early = monitored(2)
    early.alarms.append(Alarm("mode_collapse", 0, 1, "an alarm"))
    early._said.add("mode_collapse")
    first.save_checkpoint(tmp_path / "half.ckpt")
    torch.load(tmp_path / "half.ckpt", weights_only=True)
    _, second = monitored(4, tmp_path / "half.ckpt")
    assert second._looks == whole._looks and second._early == whole._early and len(whole._early) == 5
    assert second.alarms[0].message == "an alarm" and second._said >= {"mode_collapse"}


def test_labels_go_to_both_networks():
    networks = {"generator": generator(num_classes=10), "discriminator": discriminator(num_classes=10)}
    model, seen = lively(**networks), []
    for name in networks:
        getattr(model, name).register_forward_pre_hook(lambda _, args, name=name: seen.append((name, args[1])))
    y = torch.arange(8) % 4
    measured = gan_measurements.look_at(model, torch.rand(8, *SHAPE), y, offset=0)
    assert [name for name, _ in seen] == ["generator", "discriminator", "discriminator"]
    assert all(torch.equal(labels, y) for _, labels in seen)
    assert measured.isfinite().all()


class Waits(TorchDispatchMode):
    """Counts the moments at which the host reads a tensor, and would wait for a device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_between_looks_nothing_waits_for_the_device():
    def waits(batches, *callbacks):
        with Waits() as seen:
            fitting = trainer(callbacks=list(callbacks), limit_train_batches=batches, limit_val_batches=0)
            fitting.fit(lively(), datamodule=digits(train_size=400))
        return seen.count

    extra = [waits(batches, GANMonitor(every_n_batches=1000)) - waits(batches) for batches in (4, 12)]
    assert extra[0] == extra[1] <= 4


class OnlyLogs(GAN):
    """As a module written elsewhere, whose training step gives nothing."""

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)


def test_losses_of_a_module_that_only_logs_them_are_watched_too():
    bomb = Bomb(latent_dim=8, image_shape=SHAPE, hidden=(32,))
    adam = partial(torch.optim.Adam, lr=1e-3)
    model = OnlyLogs(bomb, discriminator(), generator_optimizer=adam, discriminator_optimizer=adam)
    with pytest.warns(UserWarning, match="loss of batch 13 was infinite or not a number.*seen after batch 14"):
        fit(GANMonitor(every_n_batches=5), model)


def test_a_step_gives_the_losses_that_it_logs():
    class See(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            given.append(outputs)
            logged.append({name: trainer.callback_metrics[name] for name in outputs})

    given, logged = [], []
    trainer(callbacks=[See()], limit_train_batches=4, limit_val_batches=0).fit(
        lively(n_critic=2, accumulate_grad_batches=1), datamodule=digits()
    )
    assert [sorted(losses) for losses in given] == [["train/d_loss"], ["train/d_loss", "train/g_loss"]] * 2
    assert given == logged
    assert not any(loss.requires_grad for losses in given for loss in losses.values())


def test_modules_that_are_no_gan_are_refused(tmp_path):
    with pytest.raises(
        TypeError, match=r"and Foreign lacks generator, discriminator, noise; use lightning_advreg\.GAN"
    ):
        trainer(callbacks=[GANMonitor()]).fit(Foreign(), loader(4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action": "rollback"}, "action must be one of warn, stop, got 'rollback'"),
        ({"every_n_batches": 0}, "every_n_batches must be an integer of at least 1, got 0"),
        ({"max_images": 1}, "max_images must be at least 2"),
        ({"warmup": -1}, "warmup must be an integer of at least 0, got -1"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        GANMonitor(**settings)
