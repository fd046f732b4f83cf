"""The alarms of a run as a file in its folder, for those who look when it is over."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl

from lightning_advreg.callbacks.convergence_rules import Alarm
from lightning_advreg.files import write_json
from lightning_advreg.files.outlasting import outlasting


def write_alarms(trainer: pl.Trainer, alarms: Sequence[Alarm], stop_reason: str | None) -> None:
    """Write ``alarms.json`` into the folder of a run that has a logger; an empty list says that there was none.

    All processes must call this, since they agree on the folder; the main one writes.

    Args:
        trainer: The Trainer of the run.
        alarms: All alarms so far.
        stop_reason: The alarm that stopped the training, in words, or None.
    """
    # log_dir asks the main process, so every process must read it
    folder = trainer.log_dir
    unwanted = trainer.fast_dev_run or not trainer.loggers  # type: ignore[attr-defined]
    if folder is None or unwanted or not trainer.is_global_zero:
        return
    content = {"alarms": [dataclasses.asdict(alarm) for alarm in alarms], "stop_reason": stop_reason}
    path = Path(folder) / "alarms.json"
    with outlasting(path):
        write_json(path, content)
