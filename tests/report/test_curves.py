"""What learning curves are called, and in which unit they are drawn."""

import re

import pytest

from lightning_advreg.report.curves import curves_section
from lightning_advreg.report.runs import read_run

from .folders import write_run


@pytest.mark.parametrize(
    ("metric", "title"),
    [
        ("val/acc", "accuracy (%)"),
        ("val/acc_ema", "accuracy ema (%)"),
        ("val/robust_acc/pgd_ema", "robust accuracy, pgd ema (%)"),
        ("val/loss", "loss"),
        ("val/accumulated", "accumulated"),
    ],
)
def test_accuracies_are_drawn_in_percent(tmp_path, metric, title):
    folder = write_run(tmp_path / "run")
    file = folder / "metrics.csv"
    file.write_text(file.read_text().replace("val/acc", metric))
    section = curves_section([read_run(folder)])
    assert f"<figcaption>{title}</figcaption>" in section
    # 0.5 in the first epoch, whose loss is 2
    figure = section[section.index(f"<figcaption>{title}") :].split("</figure>")[0]
    largest = max(float(number) for number in re.findall(r">([\d.]+)</text>", figure))
    assert (largest >= 50) == title.endswith("(%)")
