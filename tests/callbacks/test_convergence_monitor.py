from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.attacks.nfgsm import NFGSM
from lightning_advreg.callbacks.convergence_measurements import Sight
from lightning_advreg.callbacks.convergence_monitor import ConvergenceMonitor
from tests.modules.parts import conv, digits

from .foreign import At, Foreign, images, loader, trainer
from .monitored import FREE, MEASURED, QUICK, Plain, names, scripted, watch


def test_a_healthy_training_raises_nothing_and_logs_what_it_measures(tmp_path):
    torch.manual_seed(0)
    module = AdversarialClassifier(
        conv(norm="batch", width=8, hidden=32),
        attack=PGD(eps=0.1, step_size=0.05, steps=3),
        optimizer=partial(torch.optim.Adam, lr=3e-3),
        lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.8),
    )
    monitor, logged = ConvergenceMonitor(**FREE), []
    note = At("on_train_end", lambda trainer, module: logged.append(dict(trainer.callback_metrics)))
    run = trainer(tmp_path, monitor, note, max_epochs=4, **QUICK)
    data = digits(train_size=800, val_size=128, batch_size=32)
    run.fit(module, datamodule=data)
    assert monitor.alarms == []
    (metrics,) = logged
    assert metrics["monitor/alarms"] == 0
    assert 0.5 < metrics["monitor/pgd_acc"] <= metrics["monitor/fgsm_acc"] <= 1
    assert len(monitor._course.history) == 4
    assert [len(monitor._images[name].x) for name in ("val", "train")] == [128, 256]

    x, y = monitor._images["val"].x, monitor._images["val"].y
    batches = [batch for batch, _ in data.val_dataloader()]
    assert torch.equal(x, torch.cat(batches))
    module.eval()
    # the budget and the norm are those of the training attack
    right = (module(FGSM(eps=0.1)(module, x, y)).argmax(1) == y).float().mean()
    assert metrics["monitor/fgsm_acc"] == pytest.approx(right.item())
    x, y = monitor._images["train"].x, monitor._images["train"].y
    attack = PGD(eps=0.1, step_size=0.025, steps=10, seed=0)
    x_adv = torch.cat([attack(module, a, b) for a, b in zip(x.split(32), y.split(32), strict=True)])
    assert metrics["monitor/train_pgd_acc"] == pytest.approx((module(x_adv).argmax(1) == y).float().mean().item())


def test_training_is_bitwise_the_same_with_and_without_it(tmp_path):
    def train(*callbacks, **settings):
        torch.manual_seed(0)
        module = Foreign()
        run = trainer(tmp_path, *callbacks, max_epochs=2, **settings)
        run.fit(module, loader(16, shuffle=True), loader(8, seed=1))
        return module.state_dict(), [p.grad for p in module.parameters()]

    for sanity in (0, 1):
        without = train(num_sanity_val_steps=sanity)
        with_it = train(ConvergenceMonitor(eps=0.1, action="rollback", **FREE), num_sanity_val_steps=sanity)
        torch.testing.assert_close(with_it, without, rtol=0, atol=0)


def test_a_measurement_leaves_modes_and_gradients_alone(tmp_path):
    seen = []

    def state(trainer, module):
        flags = [(child.training) for child in module.modules()], [p.requires_grad for p in module.parameters()]
        seen.append((*flags, torch.get_rng_state().tolist(), [p.grad.tolist() for p in module.network[5].parameters()]))

    module = Foreign()
    module.network[0].weight.requires_grad_(False)
    callbacks = At("on_train_epoch_end", state), ConvergenceMonitor(eps=0.1, **FREE), At("on_train_epoch_end", state)
    run = trainer(tmp_path, *callbacks, max_epochs=1, limit_val_batches=0, **QUICK)
    run.fit(module, loader(16))
    assert len(callbacks[1]._course.history) == 1
    assert seen[0] == seen[1]


def test_without_validation_training_images_take_its_place(tmp_path):
    monitor = ConvergenceMonitor(eps=0.05, max_samples=10, **FREE)
    run = watch(tmp_path, Plain(), monitor, val=None, max_epochs=2)
    assert len(monitor._course.history) == 2
    assert monitor._course.history[0].trained == 1.0
    x, _ = images(16)
    assert torch.equal(monitor._images["train"].x, x[:10])
    assert run.callback_metrics["monitor/pgd_acc"] == run.callback_metrics["monitor/train_pgd_acc"]


def test_a_group_without_schedule_is_caught_once(tmp_path):
    class Frozen(Plain):
        def configure_optimizers(self):
            groups = [{"params": self.network[1].parameters()}, {"params": self.network[3].parameters(), "lr": 0.02}]
            optimizer = torch.optim.SGD(groups, lr=0.1)
            moves = [lambda epoch: 0.5**epoch, lambda epoch: 1.0]
            return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, moves)]

    monitor = ConvergenceMonitor(eps=0.01, action="stop", **FREE)
    run = watch(tmp_path, Frozen(), monitor, max_epochs=3)
    (alarm,) = monitor.alarms
    assert (alarm.name, alarm.epoch) == ("unscheduled_group", 0)
    assert "but never that of parameter group 1 of SGD (learning rate 0.02)" in alarm.message
    assert run.current_epoch == 3  # no cause to stop


def test_a_collapse_is_rolled_back_exactly_and_training_goes_on(tmp_path, monkeypatch):
    scripted(monkeypatch, [0.5, 0.6, 0.1, 0.6, 0.1])
    states = []

    def note(trainer, module):
        optimizer = trainer.optimizers[0].state_dict()["state"]
        states.append(
            (
                {name: tensor.clone() for name, tensor in module.state_dict().items()},
                {i: {name: value.clone() for name, value in entry.items()} for i, entry in optimizer.items()},
                trainer.optimizers[0].param_groups[0]["lr"],
            )
        )

    class Scheduled(Foreign):
        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    monitor = ConvergenceMonitor(eps=0.05, action="rollback", **FREE)
    before, after = At("on_validation_start", note), At("on_validation_end", note)
    watch(tmp_path, Scheduled(), monitor, before, after, max_epochs=5)
    trained, left = states[::2], states[1::2]
    assert names(monitor) == ["catastrophic_overfitting"] * 2
    assert "Went back to the weights of epoch 1." in monitor.alarms[0].message
    assert "Went back to the weights of epoch 3." in monitor.alarms[1].message
    for epoch, back_to in [(0, 0), (1, 1), (2, 1), (3, 3), (4, 3)]:
        torch.testing.assert_close(left[epoch][:2], trained[back_to][:2], rtol=0, atol=0)
    assert not torch.equal(trained[2][0]["network.0.weight"], trained[1][0]["network.0.weight"])
    assert not torch.equal(trained[3][0]["network.0.weight"], left[2][0]["network.0.weight"])
    assert [state[2] for state in left] == [0.01 * 0.5 ** (epoch + 1) for epoch in range(5)]


def test_robust_overfitting_ends_with_the_most_robust_weights(tmp_path, monkeypatch):
    val, train = iter([0.5, 0.7, *6 * [0.3]]), iter([0.2, 0.3, *6 * [0.9]])

    def see(sight, now, *images, **settings):
        seen = MEASURED(sight, now, *images, **settings)
        for name, rate in (("fgsm", next(val)), ("train_pgd", next(train))):
            object.__setattr__(seen.look, name, tuple(i < rate * 100 for i in range(100)))
        object.__setattr__(seen.look, "pgd", seen.look.fgsm)
        return seen

    monkeypatch.setattr(Sight, "see", see)
    weights = []
    note = At("on_validation_start", lambda trainer, module: weights.append(module.network[1].weight.clone()))

    class Growing(Plain):
        # the fall in epoch 2 is steep enough for the other rule
        eps_warmup_epochs = 7

    module, monitor = Growing(), ConvergenceMonitor(eps=0.05, action=["rollback", "stop"], **FREE)
    run = watch(tmp_path, module, monitor, note, max_epochs=20)
    assert names(monitor) == ["robust_overfitting"]
    assert "Went back to the weights of epoch 1. Training stops." in monitor.alarms[0].message
    assert run.current_epoch == 7
    assert torch.equal(module.network[1].weight, weights[1])
    assert not torch.equal(weights[-1], weights[1])
    assert sum(monitor._course.history[-1].pgd) == 70


def test_weights_that_are_not_numbers_are_rolled_back_to_the_first_ones(tmp_path):
    class Broken(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (float("nan") if self.global_step == 1 else 1.0)

    module, monitor = Broken(), ConvergenceMonitor(eps=0.05, action="rollback", **FREE)
    watch(tmp_path, module, monitor, max_epochs=2)
    assert names(monitor) == ["non_finite_loss"]
    assert "Went back to the first weights." in monitor.alarms[0].message
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert len(monitor._course.history) == 2


def test_warnings_come_once_and_a_stop_gives_its_reason(tmp_path, monkeypatch):
    scripted(monkeypatch, [0.6, 0.1, 0.6, 0.1])
    monitor = ConvergenceMonitor(eps=0.05, **FREE)
    run = watch(tmp_path, Plain(), monitor, max_epochs=4)
    assert names(monitor) == ["catastrophic_overfitting"]
    assert run.callback_metrics["monitor/alarms"] == 1
    scripted(monkeypatch, [0.6, 0.1])
    monitor = ConvergenceMonitor(eps=0.05, action="stop", **FREE)
    run = watch(tmp_path, Plain(), monitor, max_epochs=4)
    assert run.current_epoch == 2
    assert monitor.stop_reason == monitor.alarms[0].message
    assert monitor.stop_reason.endswith("Training stops.")


def test_alarms_of_the_warm_up_are_not_raised(tmp_path, monkeypatch):
    class Warming(Plain):
        eps_warmup_epochs = 2

    scripted(monkeypatch, [0.9, 0.5, 0.5, 0.2])
    monitor = ConvergenceMonitor(eps=0.05, **FREE)
    watch(tmp_path, Warming(), monitor, max_epochs=4)
    assert [alarm.epoch for alarm in monitor.alarms] == [3]


def test_a_resumed_run_measures_and_decides_as_one_that_went_through(tmp_path, monkeypatch):
    class Note(Callback):
        def __init__(self):
            self.seen = []

        def on_train_epoch_end(self, trainer, pl_module):
            # a run that resumes behind a validation ends that epoch first
            if "monitor/pgd_acc" in trainer.callback_metrics:
                self.seen.append(trainer.current_epoch)

    def run(epochs, folder, ckpt_path=None):
        torch.manual_seed(0)
        monitor, note = ConvergenceMonitor(eps=0.1, action="rollback", max_samples=9, **FREE), Note()
        saving = ModelCheckpoint(folder, filename="run", save_on_train_epoch_end=False)
        fitting = trainer(tmp_path, monitor, note, saving, max_epochs=epochs, enable_checkpointing=True, **QUICK)
        fitting.fit(Plain(), loader(16, seed=3 if ckpt_path else 0), loader(12, seed=1), ckpt_path=ckpt_path)
        return monitor, note

    first, _ = run(2, tmp_path / "half")
    path = tmp_path / "half" / "run.ckpt"
    stored = torch.load(path, weights_only=True)["callbacks"]["ConvergenceMonitor"]
    assert stored["images"]["train"]["x"].shape == (9, 1, 4, 4)
    # these have come again, and will
    assert stored["images"]["val"] == {}
    assert stored["repairs"]["snapshot"]["label"] == "the weights of epoch 1"
    assert stored["cost"]["samples"] == 9
    assert stored["cost"]["spent"] > 0
    assert stored["cost"]["trained"] > 0
    # the training data of the second half are others: the monitored images must not be
    resumed, note = run(3, tmp_path / "rest", ckpt_path=path)
    assert note.seen == [2]
    assert resumed._course.history[:2] == first._course.history
    assert len(resumed._course.history) == 3
    for name in ("val", "train"):
        assert torch.equal(resumed._images[name].x, first._images[name].x)


@pytest.mark.parametrize("shuffle", [False, True])
def test_checkpoints_hold_validation_images_that_may_not_come_again(tmp_path, shuffle):
    torch.manual_seed(0)
    monitor = ConvergenceMonitor(eps=0.1, max_samples=9, **FREE)
    run = watch(tmp_path, Plain(), monitor, val=loader(12, seed=1, shuffle=shuffle), max_epochs=1)
    # after one validation nobody knows
    assert monitor.state_dict()["images"]["val"]["x"].shape == (9, 1, 4, 4)
    first = monitor._images["val"].x
    resumed = ConvergenceMonitor(eps=0.1, max_samples=9, **FREE)
    run.save_checkpoint(tmp_path / "first.ckpt")
    loaded = trainer(tmp_path, resumed, max_epochs=2, **QUICK)
    loaded.fit(Plain(), loader(16), loader(12, seed=1, shuffle=shuffle), ckpt_path=tmp_path / "first.ckpt")
    assert torch.equal(resumed._images["val"].x, first)
    assert (resumed.state_dict()["images"]["val"] == {}) is not shuffle


def test_what_was_said_and_done_survives_a_checkpoint():
    monitor, resumed = ConvergenceMonitor(eps=0.1), ConvergenceMonitor(eps=0.1)
    monitor._said, monitor.stop_reason = {"random_logits"}, "why"
    monitor.cost.samples = 64
    resumed.load_state_dict(monitor.state_dict())
    assert (resumed._said, resumed.stop_reason, resumed.cost.samples) == ({"random_logits"}, "why", 64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"eps": 0}, ValueError, "eps must be above 0, got 0"),
        ({"eps": -1}, ValueError, "eps must be at least 0"),
        ({"norm": "l2"}, ValueError, "norm='l2' needs an eps of that norm"),
        ({"norm": "l7", "eps": 1}, ValueError, "norm must be one of"),
        ({"max_samples": 0}, ValueError, "max_samples must be an integer of at least 1"),
        ({"every_n_epochs": 0.5}, ValueError, "every_n_epochs must be an integer of at least 1"),
        ({"max_cost": 0}, ValueError, "max_cost must be above 0"),
        ({"action": "roll"}, ValueError, "action must be one of"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ConvergenceMonitor(**arguments)


def test_odd_batches_are_refused(tmp_path):
    x, y = images(4)
    with pytest.raises(TypeError, match=r"ConvergenceMonitor needs batches \(x, y\)"):
        watch(tmp_path, Plain(), ConvergenceMonitor(eps=0.1), train=DataLoader([(x, y, y)], batch_size=None))
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        watch(tmp_path, Plain(), ConvergenceMonitor(eps=0.1), train=DataLoader([(3 * x, y)], batch_size=None))


def test_a_collapse_of_an_adversarial_classifier_is_repaired_with_another_attack(tmp_path, monkeypatch):
    scripted(monkeypatch, [0.6, 0.1, 0.6])
    torch.manual_seed(0)
    module = AdversarialClassifier(conv(), attack=FGSM(eps=0.3))
    monitor = ConvergenceMonitor(action=["rollback", "nfgsm"], **FREE)
    with pytest.warns(UserWarning, match=r"Went back to the weights of epoch 0. Training goes on with NFGSM\("):
        trainer(tmp_path, monitor, max_epochs=3, **QUICK).fit(module, datamodule=digits(val_size=100))
    assert module.attack == NFGSM(eps=0.3)
    assert names(monitor) == ["catastrophic_overfitting"]
