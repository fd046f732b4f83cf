from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_advreg.attacks import FGSM, PGD, AttackSchedule
from lightning_advreg.callbacks import AdversarialTraining, ConvergenceMonitor, WeightAverage
from lightning_advreg.callbacks.convergence_actions import Repairs
from lightning_advreg.callbacks.convergence_subject import Subject, attack_owner, growth, monitored_budget
from lightning_advreg.cli import main
from lightning_advreg.schedules import Piecewise, Ramp

from .foreign import Foreign, images, loader, trainer
from .monitored import FREE, QUICK, Plain, names, scripted

MEAN, STD = (0.4,), (0.2,)


def trainer_of(*callbacks, max_epochs=10):
    return SimpleNamespace(callbacks=list(callbacks), max_epochs=max_epochs, strategy=None)


def test_budget_and_warm_up_are_those_of_the_callback_that_attacks():
    callback, module = AdversarialTraining(PGD(norm="l2", eps=0.5), eps_warmup_epochs=1.5), Foreign()
    run = trainer_of(WeightAverage(), callback)
    assert attack_owner(run, module) is callback
    assert monitored_budget(attack_owner(run, module), None, None) == ("l2", 0.5)
    assert Subject(run, module).judge_from == 1.5
    assert Subject(trainer_of(), module).judge_from == 0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (None, 0),
        (AttackSchedule(eps_factor=Ramp(epochs=2.5, start_epoch=1)), 3.5),
        (AttackSchedule(eps_factor=Ramp(epochs=4, start=2, end=1)), 0),
        (AttackSchedule(eps_factor=Ramp(epochs=2), steps=Piecewise(milestones=[(0, 0), (2, 1), (4, 3)])), 4),
        (AttackSchedule(eps_factor=Ramp(epochs=30)), 10),
    ],
)
def test_nothing_is_judged_before_the_attack_is_as_strong_as_it_gets(schedule, expected):
    assert growth(schedule, 10) == expected
    # a run that counts steps says nothing about its epochs
    module = Plain()
    module.attack_schedule = schedule
    assert Subject(trainer_of(max_epochs=-1), module).judge_from == (30 if expected == 10 else expected)


class Part(nn.Module):
    """Takes normalised images, like the training step of its module."""

    def __init__(self):
        super().__init__()
        self.layers = Plain().network

    def forward(self, x):
        return self.layers(x)


class Normalized(Foreign):
    """Has no `forward`, gets normalised images in dicts, and knows nothing of attacks."""

    forward = pl.LightningModule.forward

    def __init__(self):
        super().__init__()
        self.network = Part()

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch["pixels"]), batch["digit"])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx))


def as_dicts(n, seed=0):
    x, y = images(n, seed)
    x = (x - MEAN[0]) / STD[0]
    batches = zip(x.split(4), y.split(4), strict=True)
    return DataLoader([{"pixels": a, "digit": b} for a, b in batches], batch_size=None)


def test_a_foreign_module_is_seen_through_the_callback_that_attacks(tmp_path):
    """Its parts, normalisation and dicts are those of AdversarialTraining; the monitor needs no argument."""
    callback = AdversarialTraining(
        PGD(eps=0.1, step_size=0.05, steps=2), "network", mean=MEAN, std=STD, keys=("pixels", "digit")
    )
    monitor, module = ConvergenceMonitor(max_samples=10, **FREE), Normalized()
    trainer(tmp_path, callback, monitor, max_epochs=2, **QUICK).fit(module, as_dicts(16), as_dicts(12, seed=1))
    x, y = images(12, seed=1)
    torch.testing.assert_close(monitor._images["val"].x, x[:10])
    module.eval()

    def pixels_to_logits(x):
        return module.network((x - MEAN[0]) / STD[0])

    x_adv = FGSM(eps=0.1)(pixels_to_logits, x[:10], y[:10])
    right = (pixels_to_logits(x_adv).argmax(1) == y[:10]).tolist()
    assert list(monitor._course.history[-1].fgsm) == right
    assert len(monitor._course.history) == 2


def test_a_callable_and_half_precision():
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).to(torch.bfloat16)
    module = Foreign()
    module.network = network
    subject = Subject(trainer_of(AdversarialTraining(FGSM(), network, mean=MEAN, std=STD)), module)
    x, y = images(4)
    pixels, labels = subject.images_and_labels([((x - MEAN[0]) / STD[0]).to(torch.bfloat16), y])
    assert pixels.dtype == torch.float32
    assert (pixels - x).abs().max() < 0.01
    assert torch.equal(labels, y)
    assert subject.network()(pixels).dtype == torch.bfloat16


def test_what_cannot_be_seen_is_refused():
    with pytest.raises(TypeError, match="calls Normalized to get logits, but it defines no `forward`"):
        Subject(trainer_of(AdversarialTraining(FGSM())), Normalized())
    with pytest.raises(ValueError, match="needs a budget, and AdversarialTraining has no training attack"):
        monitored_budget(AdversarialTraining(lambda model, x, y: x), None, None)


def test_pixels_out_of_range_are_found_in_the_first_batch(tmp_path):
    x, y = images(8)
    monitor, module = ConvergenceMonitor(eps=0.1), Plain()
    run = trainer(tmp_path, monitor, **QUICK)
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        run.fit(module, DataLoader([(3 * x, y), (x, y)], batch_size=None), loader(12))
    assert run.global_step == 1


def test_a_foreign_training_is_rolled_back(tmp_path, monkeypatch):
    scripted(monkeypatch, [0.6, 0.1, 0.6])
    callback, monitor = AdversarialTraining(FGSM(eps=0.05)), ConvergenceMonitor(action="rollback", **FREE)
    with pytest.warns(UserWarning, match=r"Went back to the weights of epoch 0\."):
        trainer(tmp_path, callback, monitor, max_epochs=3, **QUICK).fit(Plain(), loader(16), loader(12, seed=1))
    assert names(monitor) == ["catastrophic_overfitting"]


class Exchangeable(AdversarialTraining):
    def use_attack(self, attack):
        self.attack = attack


def test_the_attack_that_is_replaced_is_that_of_the_callback():
    callback, module = Exchangeable(FGSM(eps=0.2)), Foreign()
    run, repairs = trainer_of(callback), Repairs("pgd2")
    repairs.check(run, module)
    repairs.replaced = True
    repairs.resume(run, module)
    assert callback.attack == PGD(eps=0.2, step_size=0.1, steps=2)


COMMAND = """
fit --model AdversarialClassifier --model.network MNISTConvNet --model.network.image_size 8 --model.network.width 4
--model.attack FGSM --model.attack.eps 0.1 --data DigitsDataModule --data.train_size 256 --data.batch_size 128
--trainer.max_epochs 1 --trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.logger false
--trainer.enable_model_summary false --trainer.enable_checkpointing false --trainer.callbacks+=ConvergenceMonitor
--trainer.callbacks.action [rollback,nfgsm] --trainer.callbacks.max_cost 1/10
"""


def test_from_the_command_line(tmp_path):
    cli = main([*COMMAND.split(), "--trainer.default_root_dir", str(tmp_path)])
    (monitor,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, ConvergenceMonitor))
    assert monitor.action == ["rollback", "nfgsm"]
    assert monitor.max_cost == 0.1
    assert monitor._budget == ("linf", 0.1)
    assert cli.trainer.callback_metrics["monitor/images"] >= 16
    assert "monitor/pgd_acc" in cli.trainer.callback_metrics
