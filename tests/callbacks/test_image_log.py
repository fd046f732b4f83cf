import sys

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from PIL import Image

from lightning_advreg.callbacks import log_image

from .foreign import trainer


def quarters():
    """Red, green, blue and white."""
    image = torch.zeros(3, 2, 2)
    image[0, 0, 0] = image[1, 0, 1] = image[2, 1, 0] = 1
    image[:, 1, 1] = 1
    return image


def test_the_file_holds_the_image_under_a_clean_name(tmp_path):
    log_image(trainer(tmp_path), "val/my samples: 1", quarters(), step=42)
    (path,) = tmp_path.rglob("*.png")
    assert path.relative_to(tmp_path).as_posix() == "images/val_my_samples__1_000042.png"
    assert np.array_equal(np.asarray(Image.open(path)), 255 * quarters().permute(1, 2, 0).numpy())


def test_the_file_is_in_the_folder_of_the_run(tmp_path):
    run = trainer(tmp_path, logger=CSVLogger(tmp_path, name="mine", version="first"))
    log_image(run, "a", torch.rand(1, 4, 4), step=0)
    assert (tmp_path / "mine" / "first" / "images" / "a_000000.png").is_file()


def test_fast_dev_run_leaves_no_file(tmp_path):
    log_image(trainer(tmp_path, fast_dev_run=True), "a", torch.rand(3, 4, 4), step=0)
    assert not list(tmp_path.rglob("*.png"))


def test_processes_other_than_the_main_one_ask_for_the_folder_and_write_nothing(tmp_path, monkeypatch):
    run, asked = trainer(tmp_path), []
    monkeypatch.setattr(type(run.strategy), "broadcast", lambda self, obj, src=0: asked.append(obj) or obj)
    monkeypatch.setattr(type(run.strategy), "is_global_zero", False)
    log_image(run, "a", torch.rand(3, 4, 4), step=0)
    assert asked == [str(tmp_path)]
    assert not list(tmp_path.rglob("*.png"))


def test_tensorboard_gets_name_step_and_pixels(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    log_image(trainer(tmp_path, logger=logger), "val/examples", quarters(), step=3, batch=7)
    # the file is numbered as its caller counts
    assert next(tmp_path.rglob("*.png")).name == "val_examples_000003.png"
    logger.experiment.close()
    events = event_accumulator.EventAccumulator(logger.log_dir).Reload()
    (event,) = events.Images("val/examples")
    assert (event.step, event.width, event.height) == (7, 2, 2)


def test_wandb_gets_name_step_pixels_and_caption(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger, rows = WandbLogger(mode="offline", save_dir=tmp_path), []
    run = logger.experiment
    try:
        monkeypatch.setattr(run, "log", rows.append)
        log_image(trainer(tmp_path, logger=logger), "val/examples", quarters(), step=7, caption="first")
    finally:
        wandb.finish()
    (row,) = rows
    (image,) = row["val/examples"]
    assert row["trainer/global_step"] == 7
    assert image._caption == "first"
    assert np.array_equal(np.asarray(image.image), 255 * quarters().permute(1, 2, 0).numpy())


def test_figures_are_drawn_without_pyplot(tmp_path):
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.subplots().plot([0, 1])
    pyplot = sys.modules.pop("matplotlib.pyplot", None)
    try:
        log_image(trainer(tmp_path), "curve", figure, step=1)
        assert "matplotlib.pyplot" not in sys.modules
    finally:
        if pyplot is not None:
            sys.modules["matplotlib.pyplot"] = pyplot
    assert Image.open(tmp_path / "images" / "curve_000001.png").size == (100, 50)
