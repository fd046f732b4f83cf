import json
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from lightning_advreg.callbacks.convergence_monitor import ConvergenceMonitor

from .foreign import images, loader, trainer
from .monitored import FREE, QUICK, Plain, names


class WriteAlarms(Callback):
    def __init__(self, folder):
        self.folder = str(folder)

    def on_train_end(self, trainer, pl_module):
        monitor = next(other for other in trainer.callbacks if isinstance(other, ConvergenceMonitor))
        weights = [parameter.sum().item() for parameter in pl_module.parameters()]
        x = monitor._images["val"].x.flatten().tolist()
        found = [names(monitor), [look.state_dict() for look in monitor._course.history], weights, x]
        Path(self.folder, f"{trainer.global_rank}.json").write_text(json.dumps(found))


class BrokenOnOne(Plain):
    def training_step(self, batch, batch_idx):
        bad = self.global_rank == 1 and self.current_epoch == 1 and batch_idx == 0
        return super().training_step(batch, batch_idx) * (float("nan") if bad else 1.0)


def in_pair(folder):
    monitor = ConvergenceMonitor(eps=0.05, action="rollback", max_samples=7, **FREE)
    run = trainer(folder, monitor, WriteAlarms(folder), strategy="ddp", devices=2, max_epochs=3, **QUICK)
    run.fit(BrokenOnOne(), loader(16), loader(12, seed=1))


def test_two_processes_decide_alike(pair):
    first, second = (json.loads((pair / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    alarms, history, weights, x = first
    assert alarms == ["non_finite_loss"]
    assert [look["trained"] for look in history] == [1.0, 2.0, 3.0]
    assert all(abs(weight) < 100 for weight in weights)
    assert x == images(12, seed=1)[0][:7].flatten().tolist()
