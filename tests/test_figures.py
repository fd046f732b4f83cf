"""The pictures of the documentation show what they say."""

import json

from benchmarks import figures
from lightning_advreg.constraints import WeightClip
from lightning_advreg.penalties import L1


def test_a_bound_holds_and_a_penalty_shrinks():
    free, soft, hard = (figures.trained_weights(limit, steps=60) for limit in (None, L1(0.001), WeightClip(0.1)))
    assert hard.abs().max() <= 0.1 + 1e-6
    assert free.abs().max() > 0.1
    assert (soft.abs() < 1e-3).sum() > 2 * (free.abs() < 1e-3).sum()


def test_curves_are_those_of_the_results():
    figure = figures.robust_overfitting()
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    epochs = json.loads((figures.RESULTS / "robust-0.json").read_text())["epochs"]
    assert list(lines["validation images"].get_ydata()) == [100 * epoch["monitor/pgd_acc"] for epoch in epochs]
    first = next(epoch["epoch"] for epoch in epochs if epoch["monitor/alarms"])
    assert set(lines["alarm"].get_xdata()) == {first}


def test_pictures_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "soft_and_hard", figures.catastrophic_overfitting)
    figures.main(["--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"catastrophic_overfitting.png", "robust_overfitting.png"}
