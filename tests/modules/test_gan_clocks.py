"""What the steps, the clocks and the schedules of a GAN are, as its docstring and the README say."""

import csv

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.constraints import Budget, WeightClip

from .parts import FROZEN, SHAPE, AtBatches, digits, fit_gan, gan, plain_gan, trainer


def test_the_discriminators_step_runs_the_generator_without_gradients():
    model, modes = plain_gan(), []
    model.generator.register_forward_hook(
        lambda m, args, out: modes.append((torch.is_grad_enabled(), out.requires_grad))
    )
    fit_gan(model, batches=2)
    # the check of the first batch, then the discriminator's and the generator's step in turn
    assert modes == [(False, False), *[(False, False), (True, True)] * 2]


def test_each_step_begins_without_the_gradients_of_the_last():
    model, seen = plain_gan(n_critic=2, generator_optimizer=FROZEN, discriminator_optimizer=FROZEN), []
    noise, x = torch.randn(16, 4), torch.rand(16, *SHAPE)
    model.noise = lambda count: noise[:count]
    look = AtBatches(lambda t, m, b: seen.append([p.grad.clone() for p in m.discriminator.parameters()]))
    data = DataLoader(TensorDataset(torch.cat([x, x]), torch.zeros(32)), batch_size=16)
    trainer(limit_val_batches=0, callbacks=[look]).fit(model, data)
    first, second = seen
    for a, b in zip(first, second, strict=True):
        assert a.abs().max() > 0
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("n_critic", "steps", "batches"), [(1, 6, 3), (1, 5, 3), (2, 6, 4), (2, 7, 5), (3, 8, 6)])
def test_max_steps_counts_the_steps_of_both_optimizers(n_critic, steps, batches):
    model = plain_gan(n_critic=n_critic)
    fitting = fit_gan(model, batches=1.0, epochs=3, max_steps=steps)
    assert model.batches_seen == batches
    assert fitting.global_step == model.discriminator_steps + model.generator_steps >= steps


@pytest.mark.parametrize(
    ("n_critic", "accumulate", "every", "saved"), [(1, 1, 4, [2, 4, 6]), (2, 1, 3, [2, 4, 6]), (1, 2, 2, [2, 4, 6])]
)
def test_every_n_train_steps_saves_after_whole_rounds(n_critic, accumulate, every, saved, tmp_path):
    model = plain_gan(n_critic=n_critic, accumulate_grad_batches=accumulate)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=every, save_top_k=-1)
    fit_gan(model, batches=6, callbacks=[keep], enable_checkpointing=True)
    seen = [torch.load(path, weights_only=True)["gan_counters"]["batches_seen"] for path in tmp_path.glob("*.ckpt")]
    assert sorted(seen) == saved


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3, 4, 5]), (2, [1, 3, 5])])
def test_loggers_count_batches(every, steps, tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    fit_gan(plain_gan(n_critic=2), batches=6, logger=logger, log_every_n_steps=every)
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/d_loss"]]
    assert [int(row["step"]) for row in rows] == steps


def test_validation_intervals_count_batches():
    class Seen(Callback):
        def on_validation_start(self, trainer, pl_module):
            seen.append(pl_module.batches_seen)

    model, seen = plain_gan(n_critic=2), []
    trainer(callbacks=[Seen()], val_check_interval=2).fit(model, datamodule=digits())
    assert seen == [2, 4, 6]


def test_learning_rates_change_at_the_end_of_an_epoch_and_not_with_steps():
    model, rates = gan(n_critic=1), []
    see = AtBatches(lambda t, m, b: rates.append([o.param_groups[0]["lr"] for o in t.optimizers]))
    fit_gan(model, batches=2, epochs=2, callbacks=[see])
    assert rates == [[4e-3, 1e-3]] * 2 + [[2e-3, 5e-4]] * 2


def test_what_is_used_of_the_budgets_is_said_once(caplog):
    model = plain_gan(
        generator_constraints=[Budget(parameters=10_000, layers=3)],
        discriminator_constraints=[WeightClip(1.0), Budget(parameters=1_000)],
    )
    with caplog.at_level("INFO"):
        metrics = fit_gan(model, epochs=2).callback_metrics
    used = {n: sum(p.numel() for p in getattr(model, n).parameters()) for n in ("generator", "discriminator")}
    said = [record.message for record in caplog.records if "Budget" in record.message]
    assert said == [
        f"Budget of the generator, used / allowed: parameters {used['generator']:,} / 10,000, layers 2 / 3",
        f"Budget of the discriminator, used / allowed: parameters {used['discriminator']:,} / 1,000",
    ]
    assert float(metrics["train/g_constraint/budget/parameters"]) == pytest.approx(used["generator"] / 10_000)
    assert float(metrics["train/d_constraint/budget/parameters"]) == pytest.approx(used["discriminator"] / 1_000)
    assert float(metrics["train/g_constraint/budget/layers"]) == pytest.approx(2 / 3)
    assert 0 <= float(metrics["train/d_constraint/weightclip/at_bound"]) < 1
