import json

from lightning.pytorch.loggers import CSVLogger

from lightning_advreg.callbacks import ConvergenceMonitor
from lightning_advreg.callbacks.convergence_record import write_alarms
from lightning_advreg.callbacks.convergence_rules import Alarm

from .foreign import trainer
from .monitored import FREE, Plain, scripted, watch

ALARM = Alarm("start_plateau", 1, 9, "Epoch 1: a plateau.")


def logged(tmp_path):
    return CSVLogger(tmp_path, name="", version="")


def test_alarms_of_a_run_are_written_when_they_are_raised(tmp_path, monkeypatch):
    scripted(monkeypatch, [0.9, 0.2])
    monitor = ConvergenceMonitor(eps=0.1, **FREE)
    watch(tmp_path, Plain(), monitor, logger=logged(tmp_path), max_epochs=2)
    written = json.loads((tmp_path / "alarms.json").read_text())
    assert [alarm["name"] for alarm in written["alarms"]] == ["catastrophic_overfitting"]
    assert written["alarms"][0]["message"] == monitor.alarms[0].message and written["stop_reason"] is None


def test_a_new_run_without_alarms_says_so(tmp_path, monkeypatch):
    (tmp_path / "alarms.json").write_text('{"alarms": [{"name": "of an earlier run"}]}')
    scripted(monkeypatch, [0.9])
    watch(tmp_path, Plain(), ConvergenceMonitor(eps=0.1, **FREE), logger=logged(tmp_path), max_epochs=1)
    assert json.loads((tmp_path / "alarms.json").read_text()) == {"alarms": [], "stop_reason": None}


def test_runs_without_logger_or_of_one_batch_leave_no_file(tmp_path):
    write_alarms(trainer(tmp_path), [ALARM], None)
    write_alarms(trainer(tmp_path, logger=logged(tmp_path), fast_dev_run=True), [ALARM], None)
    assert not list(tmp_path.rglob("alarms.json"))
    write_alarms(trainer(tmp_path, logger=logged(tmp_path)), [ALARM], "stopped")
    assert json.loads((tmp_path / "alarms.json").read_text())["stop_reason"] == "stopped"
