import copy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision, Precision

from lightning_advreg.callbacks import WeightAverage
from lightning_advreg.callbacks.convergence_monitor import ConvergenceMonitor
from lightning_advreg.callbacks.convergence_snapshot import Snapshot

from .foreign import At, Foreign, images, loader, trainer
from .monitored import FREE, QUICK, Plain, names, scripted


def trainer_of(*optimizers, precision=None):
    return SimpleNamespace(optimizers=list(optimizers), precision_plugin=precision or Precision(), callbacks=[])


def step(module, optimizer, seed=0):
    optimizer.zero_grad()
    x, y = images(8, seed)
    F.cross_entropy(module(x), y).backward()
    optimizer.step()


def state(module, optimizer):
    return copy.deepcopy((dict(module.state_dict()), optimizer.state_dict()["state"]))


def same(left, right):
    torch.testing.assert_close(left, right, rtol=0, atol=0)
    return True


@pytest.mark.parametrize("make", [torch.optim.Adam, partial(torch.optim.SGD, lr=0.1, momentum=0.9)])
@pytest.mark.parametrize("inference", [False, True])
def test_rollback_is_exact_and_can_be_repeated(make, inference):
    module = Foreign()
    optimizer = make(module.parameters())
    trainer = trainer_of(optimizer)
    step(module, optimizer)
    with torch.inference_mode(inference):
        snapshot = Snapshot.take(trainer, module, "epoch 0")
    good = state(module, optimizer)
    for seed in (1, 2):
        # the second time, the optimizer must not have written into the snapshot
        for _ in range(2):
            step(module, optimizer, seed)
        assert not torch.equal(module.network[0].weight, good[0]["network.0.weight"])
        assert not torch.equal(module.network[1].running_mean, good[0]["network.1.running_mean"])
        optimizer.param_groups[0]["lr"] = 0.01 * seed
        with torch.inference_mode(inference):
            snapshot.restore(trainer, module)
        assert same(state(module, optimizer), good)
        assert all(parameter.grad is None for parameter in module.parameters())
        # the schedule goes on where it is
        assert optimizer.param_groups[0]["lr"] == 0.01 * seed
    step(module, optimizer, 3)


def test_training_goes_on_as_if_the_bad_epoch_had_never_been():
    def run(bad):
        torch.manual_seed(0)
        module = Foreign()
        module.eval()  # no dropout, which would draw
        module.network[1].train()
        optimizer = torch.optim.Adam(module.parameters())
        trainer = trainer_of(optimizer)
        step(module, optimizer)
        if bad:
            snapshot = Snapshot.take(trainer, module, "")
            step(module, optimizer, 5)
            snapshot.restore(trainer, module)
        step(module, optimizer, 1)
        return state(module, optimizer)

    assert same(run(bad=True), run(bad=False))


def test_a_snapshot_survives_a_file(tmp_path):
    module = Foreign()
    optimizer = torch.optim.Adam(module.parameters())
    trainer = trainer_of(optimizer)
    step(module, optimizer)
    good = state(module, optimizer)
    torch.save(Snapshot.take(trainer, module, "epoch 0").state_dict(), tmp_path / "snapshot")
    step(module, optimizer)
    snapshot = Snapshot.from_state_dict(torch.load(tmp_path / "snapshot", weights_only=True))
    snapshot.restore(trainer, module)
    assert snapshot.label == "epoch 0"
    assert same(state(module, optimizer), good)


def mixed_precision():
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))


def test_the_scale_of_losses_comes_back(tmp_path):
    module, precision = Foreign(), mixed_precision()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    run, scaler = trainer_of(optimizer, precision=precision), precision.scaler

    def scaled_step(factor):
        optimizer.zero_grad()
        x, y = images(8)
        scaler.scale(F.cross_entropy(module(x), y) * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    scaled_step(1.0)
    snapshot = Snapshot.take(run, module, "")
    torch.save(snapshot.state_dict(), tmp_path / "snapshot")
    for bring_back in (snapshot, Snapshot.from_state_dict(torch.load(tmp_path / "snapshot", weights_only=True))):
        for _ in range(3):
            scaled_step(float("inf"))
        assert scaler.get_scale() == 128
        bring_back.restore(run, module)
        assert scaler.get_scale() == 1024
        assert scaler.state_dict()["_growth_tracker"] == 1


class NoteAverage(Callback):
    """What the average is before and after each validation."""

    def __init__(self, average):
        self.average, self.before, self.after = average, [], []

    def on_validation_start(self, trainer, pl_module):
        self.before.append(copy.deepcopy(self.average.average.state_dict()))

    def on_validation_end(self, trainer, pl_module):
        self.after.append(copy.deepcopy(self.average.average.state_dict()))


@pytest.mark.parametrize("monitor_first", [False, True])
def test_an_average_of_the_weights_comes_back(tmp_path, monkeypatch, monitor_first):
    scripted(monkeypatch, [0.5, 0.1, 0.6])
    monitor, average = ConvergenceMonitor(eps=0.05, action="rollback", **FREE), WeightAverage(decay=0.5)
    note, module = NoteAverage(average), Plain()
    callbacks = [monitor, average, note] if monitor_first else [average, monitor, note]
    with pytest.warns(UserWarning, match="Went back to the weights of epoch 0"):
        trainer(tmp_path, *callbacks, max_epochs=3, **QUICK).fit(module, loader(16), loader(12, seed=1))
    assert names(monitor) == ["catastrophic_overfitting"]
    assert [state["steps"] for state in note.before] == [4, 8, 8]
    assert [state["steps"] for state in note.after] == [4, 4, 8]
    assert not same_values(note.before[1], note.before[0])
    assert same_values(note.after[1], note.before[0])
    # and the average goes on from there
    assert not same_values(note.after[2], note.after[1])


def same_values(left, right):
    return all(torch.equal(left["weights"][name], right["weights"][name]) for name in left["weights"])


def test_a_bad_step_never_enters_the_average(tmp_path):
    """In the middle of an epoch the monitor may come before the average, which has yet to take in the step."""

    class Broken(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (float("nan") if self.global_step == 109 else 1.0)

    monitor, average = ConvergenceMonitor(eps=0.05, action="rollback", **FREE), WeightAverage(decay=0.5)
    seen = []
    look = At("on_train_batch_end", lambda trainer, module: seen.append(average.average.steps))
    run = trainer(tmp_path, monitor, average, look, max_epochs=2, max_steps=111, limit_val_batches=0, **QUICK)
    with pytest.warns(UserWarning, match="Went back to the weights of epoch 0"):
        run.fit(Broken(), loader(60, batch_size=1))
    assert seen[108:] == [109, 60, 61]
    assert all(weight.isfinite().all() for weight in average.average.weights.values())
