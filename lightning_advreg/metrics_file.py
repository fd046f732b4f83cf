"""``metrics.csv``: whole at every moment, and no reason for a run to end."""

import csv
import os
from pathlib import Path

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from lightning_advreg.files import writing
from lightning_advreg.files.outlasting import outlasting
from lightning_advreg.run_folder import set_aside


class MetricsFile(ExperimentWriter):
    """Lightning's writer of metrics, whose rows wait where the disk is full, and whose header changes at once.

    Args:
        log_dir: The folder of the file.
    """

    def save(self) -> None:
        """Add the rows that wait to the file; where it cannot be written, warn and let them wait on."""
        path = Path(self.metrics_file_path)
        if not self.metrics:
            return
        with outlasting(path):
            if path.is_file() and set().union(*self.metrics) <= set(self.metrics_keys):
                self._append(path)
            else:
                self._write_anew(path)

    def _append(self, path: Path) -> None:
        length = path.stat().st_size
        try:
            super().save()
        except OSError:
            # half a row would spoil the next one
            os.truncate(path, length)
            raise

    def _write_anew(self, path: Path) -> None:
        rows: list[dict[str, object]] = []
        if path.is_file():
            with path.open(newline="") as file:
                rows += csv.DictReader(file)
        keys = sorted(set(self.metrics_keys).union(*self.metrics))
        with writing(path) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=keys)
            writer.writeheader()
            writer.writerows([*rows, *self.metrics])
        self.metrics_keys, self.metrics = keys, []


class RunLogger(CSVLogger):
    """Lightning's logger of files with a :class:`MetricsFile`.

    Args:
        root: The run's folder.
        subcommand: What is done there; all but ``fit`` have a folder of their name inside.
    """

    def __init__(self, root: Path, subcommand: str) -> None:
        name = "" if subcommand == "fit" else subcommand
        set_aside(root / name / "metrics.csv")
        # at once, so that a run that is killed and goes on leaves no gap
        super().__init__(save_dir=str(root), name=name, version="", flush_logs_every_n_steps=1)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer; on processes other than the main one, one that does nothing."""
        if self._experiment is None:
            self._experiment = MetricsFile(self.log_dir)
        assert isinstance(self._experiment, ExperimentWriter)
        return self._experiment
