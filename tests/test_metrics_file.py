import csv
import resource
from contextlib import contextmanager

import pytest

from lightning_advreg.metrics_file import RunLogger


@contextmanager
def no_more_than(size):
    """Let no file grow above a size, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def log(logger, step, **metrics):
    logger.log_metrics(metrics, step=step)


def test_rows_wait_where_the_disk_is_full_and_are_written_once(tmp_path):
    logger = RunLogger(tmp_path, "fit")
    log(logger, 0, loss=1.0)
    before = (tmp_path / "metrics.csv").read_bytes()
    with (
        no_more_than(len(before) + 3),
        pytest.warns(UserWarning, match=r"metrics\.csv could not be written \(File too large\), and the run goes on"),
    ):
        log(logger, 1, loss=0.5)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    log(logger, 2, loss=0.25)
    assert rows(tmp_path) == [{"loss": str(0.5**step), "step": str(step)} for step in range(3)]


def test_a_new_column_on_a_full_disk_costs_no_old_row(tmp_path):
    logger = RunLogger(tmp_path, "fit")
    log(logger, 0, loss=1.0)
    before = (tmp_path / "metrics.csv").read_bytes()
    with no_more_than(10), pytest.warns(UserWarning, match="could not be written"):
        log(logger, 1, acc=0.5)
    assert (tmp_path / "metrics.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    log(logger, 2, loss=0.25)
    assert rows(tmp_path) == [
        {"acc": "", "loss": "1.0", "step": "0"},
        {"acc": "0.5", "loss": "", "step": "1"},
        {"acc": "", "loss": "0.25", "step": "2"},
    ]


def test_every_command_has_its_file_and_that_of_an_earlier_run_is_kept(tmp_path):
    for subcommand in ("fit", "test", "fit"):
        log(RunLogger(tmp_path, subcommand), 0, loss=1.0)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.csv"))
    assert files == ["metrics.csv", "metrics_1.csv", "test/metrics.csv"]
