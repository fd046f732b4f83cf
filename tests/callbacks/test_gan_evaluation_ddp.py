import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lightning_advreg.callbacks import GANEvaluation
from lightning_advreg.metrics import (
    ClassifierFeatures,
    ClasswiseFrechetDistance,
    FrechetDistance,
    InceptionScore,
    InterpolationSmoothness,
    ModeCount,
    NearestNeighbours,
    PixelFeatures,
    PrecisionRecallDensityCoverage,
)
from tests.modules.parts import conv, digits, gan, trainer


class WriteMetrics(Callback):
    """Nothing but files comes back from a spawned process."""

    def __init__(self, folder):
        self.folder = str(folder)

    def on_validation_end(self, trainer, pl_module):
        measured = {name: value.item() for name, value in trainer.callback_metrics.items() if "/gan/" in name}
        Path(self.folder, f"{trainer.global_rank}.json").write_text(json.dumps(measured))


def evaluating(folder, known):
    """In the features of a classifier, and of pixels, with a reference of each in a folder of its own."""
    torch.manual_seed(1)
    metrics = [
        ClasswiseFrechetDistance(),
        ModeCount("real"),
        InterpolationSmoothness(pairs=11),
        InceptionScore(splits=1),
    ]
    more = [FrechetDistance(), PrecisionRecallDensityCoverage(), NearestNeighbours()]
    settings = {"num_samples": 45, "batch_size": 16, "progress": False}
    return [
        GANEvaluation(ClassifierFeatures(conv()), metrics, reference_dir=folder, **settings),
        GANEvaluation(PixelFeatures(), more, reference_dir=known, **settings),
    ]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_measure_what_one_does(tmp_path):
    """Whether they extract the reference and write it, or read what one process has written."""
    torch.manual_seed(0)
    model = gan()
    known = tmp_path / "known"
    callbacks = evaluating(tmp_path / "one", known)
    (expected,) = trainer(callbacks=callbacks).validate(model, datamodule=digits(val_size=33), verbose=False)
    expected = {name: value for name, value in expected.items() if "/gan/" in name}
    callbacks = [*evaluating(tmp_path / "two", known), WriteMetrics(tmp_path)]
    trainer(callbacks=callbacks, strategy="ddp_spawn", devices=2).validate(
        model, datamodule=digits(val_size=33), verbose=False
    )
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6, nan_ok=True)
    first, second = (np.load(next((tmp_path / name).iterdir())) for name in ("one", "two"))
    assert first.files == second.files
    for name in first.files:
        if name != "key":
            np.testing.assert_allclose(first[name], second[name], rtol=1e-4, atol=1e-6)
    assert str(first["key"]) == str(second["key"])
