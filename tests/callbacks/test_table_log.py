"""Tables and curves, to the loggers that take them; what W&B makes of them is in tests/loggers."""

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from lightning_advreg.callbacks import log_curve, log_table

from .foreign import trainer

ROWS = [{"attack": "pgd", "accuracy": 0.25}, {"attack": "none", "images": 10}]


class Listening(WandbLogger):
    """Starts no run."""

    def __init__(self, folder):
        self.tables, self.metrics, self.folder = [], [], str(folder)

    name, version = "", ""

    @property
    def experiment(self):
        return self

    @property
    def save_dir(self):
        return self.folder

    def log_table(self, name, columns, data, step):
        self.tables.append((name, columns, data, step))

    def log_metrics(self, metrics, step):
        self.metrics.append((metrics, step))


def test_wandb_gets_columns_of_all_rows_at_the_batch(tmp_path):
    logger = Listening(tmp_path)
    log_table(trainer(tmp_path, logger=logger), "test/robust", ROWS, step=7)
    expected = [["pgd", 0.25, None], ["none", None, 10]]
    assert logger.tables == [("test/robust", ["attack", "accuracy", "images"], expected, 7)]


def test_wandb_gets_a_chart(tmp_path):
    pytest.importorskip("wandb")
    logger = Listening(tmp_path)
    points = [{"eps": 0.0, "accuracy": 0.9}, {"eps": 0.1, "accuracy": 0.4}]
    log_curve(trainer(tmp_path, logger=logger), "test/curve", points, x="eps", y="accuracy", title="PGD", step=7)
    ((metrics, step),) = logger.metrics
    assert step == 7 and list(metrics) == ["test/curve"]
    chart = metrics["test/curve"]
    assert (chart.table.columns, chart.table.data) == (["eps", "accuracy"], [[0.0, 0.9], [0.1, 0.4]])


def test_tensorboard_gets_text(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    log_table(trainer(tmp_path, logger=logger), "test/robust", ROWS, step=7)
    logger.finalize("success")
    events = event_accumulator.EventAccumulator(logger.log_dir).Reload()
    (event,) = events.Tensors("test/robust/text_summary")
    assert event.step == 7 and b"| pgd | 25.00 % |" in event.tensor_proto.string_val[0]


@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {}])
def test_others_get_nothing(settings, tmp_path):
    logger = Listening(tmp_path) if settings else CSVLogger(tmp_path)
    run = trainer(tmp_path, logger=logger, **settings)
    log_table(run, "a", ROWS, step=0)
    log_curve(run, "a", [{"x": 0.0, "y": 0.0}], x="x", y="y", title="", step=0)
    assert not settings or logger.tables == logger.metrics == []


def test_what_cannot_be_shown(tmp_path):
    with pytest.raises(ValueError, match=r"the table a has no rows; give at least one\."):
        log_table(trainer(tmp_path), "a", [], step=0)
    with pytest.raises(ValueError, match=r"the curve a has no column 'eps', only \['x'\]; name one of them\."):
        log_curve(trainer(tmp_path), "a", [{"x": 0.0}], x="eps", y="x", title="", step=0)
