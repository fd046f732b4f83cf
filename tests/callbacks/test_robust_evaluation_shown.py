"""What people see of an evaluation: pictures, a table, bars and warnings."""

import re

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.attacks import FGSM
from lightning_advreg.callbacks import evaluation_pictures

from .evaluating import NAME, PGD3, callback, pictures, results, run
from .foreign import Foreign, images, loader

pytestmark = pytest.mark.filterwarnings("error:The search runs on")


def test_tensorboard_gets_the_pictures(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    run(tmp_path, callback(curve_eps=None), logger=logger)
    events = event_accumulator.EventAccumulator(logger.log_dir).Reload()
    assert sorted(events.Tags()["images"]) == sorted(
        f"test/{name}" for name in ("accuracy_curve", "per_class", "robust_evaluation_examples")
    )
    assert "test/robust_acc/worst_case" in events.Tags()["scalars"]
    assert (tmp_path / "lightning_logs" / "version_0" / f"{NAME}.json").is_file()


def test_wandb_gets_the_pictures(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger, rows = WandbLogger(mode="offline", save_dir=tmp_path), []
    experiment = logger.experiment
    try:
        monkeypatch.setattr(experiment, "log", lambda row, *args, **kwargs: rows.append(row))
        run(tmp_path, callback(curve_eps=None), logger=logger)
    finally:
        wandb.finish()
    logged = {name for row in rows for name in row}
    assert {"test/accuracy_curve", "test/per_class", "test/robust_evaluation_examples"} <= logged
    assert "test/robust_acc/pgd" in logged


def test_no_examples_where_there_is_nothing_to_see(tmp_path):
    run(tmp_path / "none", callback(examples=0))
    assert pictures(tmp_path / "none") == ["test_per_class_000000.png"]
    x, y = images(8)
    module = Foreign(seed=1)
    module.network[0] = torch.nn.Conv2d(2, 8, 3, padding=1)
    two = DataLoader(TensorDataset(x.repeat(1, 2, 1, 1), y), batch_size=4)
    run(tmp_path / "two", callback(), two, module)
    assert pictures(tmp_path / "two") == ["test_per_class_000000.png"]


def test_classes_are_named(tmp_path, monkeypatch):
    seen = []
    figure = evaluation_pictures.adversarial_examples_figure
    monkeypatch.setattr(
        evaluation_pictures, "adversarial_examples_figure", lambda *args: seen.append(args) or figure(*args)
    )
    evaluating = callback(FGSM(eps=0.3), class_names=("left", "right"), examples=5)
    module = Foreign(seed=1)
    run(tmp_path, evaluating, module=module)
    ((clean, attacked, labels, predictions, predictions_adv, names),) = seen
    x, y = images(20)
    module.eval()
    x_adv = evaluating.reports[0].x_adv
    fallen = (x_adv != x).flatten(1).any(1).nonzero().squeeze(1)[:5]
    assert names == ["left", "right"] and len(fallen) == 5 and fallen.tolist() != list(range(5))
    assert torch.equal(clean, x[fallen]) and torch.equal(labels, y[fallen])
    assert torch.equal(attacked, x_adv[fallen])
    assert torch.equal(predictions, module(clean).argmax(1))
    assert torch.equal(predictions_adv, module(attacked).argmax(1))


class Probabilities(Foreign):
    def forward(self, x):
        return self.network(x).softmax(1)


def test_signs_of_masking_are_warnings_and_in_the_file(tmp_path):
    with pytest.warns(UserWarning, match=r"Sign of gradient masking \(softmax_outputs\): The outputs are not negative"):
        run(tmp_path, callback(masking=True), loader(4), Probabilities(seed=1))
    assert [flag["name"] for flag in results(tmp_path)["gradient_masking"]] == ["softmax_outputs"]
    run(tmp_path, callback(), loader(4), Probabilities(seed=1))
    assert results(tmp_path)["gradient_masking"] is None


@pytest.mark.parametrize(("bars", "progress"), [(True, True), (True, False), (False, True)])
def test_bars_and_a_table_on_the_terminal(tmp_path, capfd, bars, progress):
    evaluating = callback({"fgsm": FGSM(eps=0.3), "pgd": PGD3}, progress=progress)
    run(tmp_path, evaluating, enable_progress_bar=bars, verbose=True)
    out, err = capfd.readouterr()
    assert (re.search(r"fgsm: 100%.*robust acc", err) is not None) == (bars and progress)
    worst = evaluating.reports[0].worst_case
    assert "Accuracy under attack, 20 test images" in out
    assert re.search(rf"worst case +{100 * worst.accuracy:.2f} %", out)


def test_no_table_where_the_test_is_to_be_silent(tmp_path, capfd):
    run(tmp_path, callback(FGSM(eps=0.3)), verbose=False)
    assert "Accuracy under attack" not in capfd.readouterr().out
