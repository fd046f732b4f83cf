import json
from pathlib import Path

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


def evaluating(folder):
    torch.manual_seed(1)
    metrics = [
        FrechetDistance(),
        ClasswiseFrechetDistance(),
        PrecisionRecallDensityCoverage(),
        ModeCount("real"),
        NearestNeighbours(),
        InterpolationSmoothness(pairs=11),
        InceptionScore(splits=1),
    ]
    return GANEvaluation(
        ClassifierFeatures(conv()), metrics, num_samples=45, batch_size=16, reference_dir=folder, progress=False
    )


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("known", [False, True])
def test_two_processes_measure_what_one_does(tmp_path, known):
    """Whether they extract the reference and write it, or read what one process has written."""
    torch.manual_seed(0)
    model = gan()
    first = tmp_path / "one"
    (expected,) = trainer(callbacks=[evaluating(first)]).validate(model, datamodule=digits(val_size=33), verbose=False)
    expected = {name: value for name, value in expected.items() if "/gan/" in name}
    folder = first if known else tmp_path / "two"
    callbacks = [evaluating(folder), WriteMetrics(tmp_path)]
    run = trainer(callbacks=callbacks, strategy="ddp_spawn", devices=2)
    run.validate(model, datamodule=digits(val_size=33), verbose=False)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6, nan_ok=True)
    assert len(list(folder.iterdir())) == 1
