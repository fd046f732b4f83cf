from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import SGD

from lightning_advreg import RegularizedClassifier
from lightning_advreg.modules import LinearOneCycle

from .parts import ForeignNet, adversarial, digits, gan, trainer


def rates(steps, **settings):
    optimizer = SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)], "lr": 3.0}], lr=1.0)
    schedule = LinearOneCycle(optimizer, total_steps=steps, **settings)
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


def test_it_rises_to_the_peak_and_falls_to_zero():
    found = [first for first, _ in rates(10, warmup=0.4)]
    assert found == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8, 11 / 12, 9 / 12, 7 / 12, 5 / 12, 3 / 12, 1 / 12])


def test_every_group_keeps_its_own_peak():
    for first, second in rates(5):
        assert second == pytest.approx(3 * first)


def test_without_a_rise_it_falls_from_the_peak():
    assert [first for first, _ in rates(4, warmup=0)] == pytest.approx([7 / 8, 5 / 8, 3 / 8, 1 / 8])


def test_beyond_its_end_it_stays_at_zero():
    optimizer = SGD([torch.zeros(1)], lr=1.0)
    schedule = LinearOneCycle(optimizer, total_steps=2)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [0.0]


@pytest.mark.parametrize("warmup", [-0.1, 1, 1.5])
def test_a_bad_warmup_is_refused(warmup):
    with pytest.raises(ValueError, match=rf"warmup must be in \[0, 1\), a share of training, got {warmup}"):
        LinearOneCycle(SGD([torch.zeros(1)], lr=1.0), warmup=warmup)


def test_bad_total_steps_are_refused():
    with pytest.raises(ValueError, match="total_steps must be at least 1, got 0"):
        LinearOneCycle(SGD([torch.zeros(1)], lr=1.0), total_steps=0)


class Rates(Callback):
    """Keep the learning rates that each optimizer step used."""

    def __init__(self):
        self.used = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.used.append((id(optimizer), optimizer.param_groups[0]["lr"]))


def used_rates(model, **settings):
    seen = Rates()
    fitting = trainer(**{"limit_train_batches": 4, "limit_val_batches": 0, "callbacks": [seen], **settings})
    fitting.fit(model, datamodule=digits())
    return [rate for _, rate in seen.used], seen.used


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 8), (2, 4)])
def test_the_module_tells_it_how_many_steps_there_are(accumulate, steps):
    model = RegularizedClassifier(
        ForeignNet(), optimizer=partial(SGD, lr=1.0), lr_scheduler=partial(LinearOneCycle, warmup=0.5)
    )
    found, _ = used_rates(model, max_epochs=2, accumulate_grad_batches=accumulate)
    assert found == pytest.approx([first for first, _ in rates(steps, warmup=0.5)])


def test_other_schedules_change_every_epoch():
    model = RegularizedClassifier(
        ForeignNet(),
        optimizer=partial(SGD, lr=1.0),
        lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
    )
    found, _ = used_rates(model, max_epochs=3)
    assert found == [1.0] * 4 + [0.5] * 4 + [0.25] * 4


def test_the_first_rate_is_known_before_the_first_step():
    model = RegularizedClassifier(ForeignNet(), optimizer=partial(SGD, lr=1.0), lr_scheduler=LinearOneCycle)
    seen = []

    class First(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.append(module.lr_schedulers().get_last_lr()[0])

    used, _ = used_rates(model, callbacks=[First(), rates_seen := Rates()])
    assert used == []
    assert seen == pytest.approx([rate for _, rate in rates_seen.used])


def test_training_without_an_end_is_refused():
    with pytest.raises(ValueError, match="LinearOneCycle must know when training ends; set max_epochs"):
        used_rates(adversarial(), max_epochs=-1)


def test_both_networks_of_a_gan_have_a_rate_and_a_schedule_of_their_own():
    model = gan(n_critic=1, generator_lr_scheduler=None)
    _, used = used_rates(model, max_epochs=2)
    discriminator, generator = (id(optimizer) for optimizer in model.trainer.optimizers)
    assert [rate for key, rate in used if key == discriminator] == [4e-3] * 4 + [2e-3] * 4
    assert [rate for key, rate in used if key == generator] == [1e-3] * 8


def test_a_gan_changes_the_one_cycle_every_epoch():
    model = gan(
        discriminator_lr_scheduler=partial(LinearOneCycle, warmup=0.5), discriminator_optimizer=partial(SGD, lr=1.0)
    )
    _, used = used_rates(model, max_epochs=4)
    key = id(model.trainer.optimizers[0])
    found = [rate for owner, rate in used if owner == key]
    assert found == pytest.approx([0.25] * 4 + [0.75] * 8 + [0.25] * 4)
