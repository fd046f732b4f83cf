"""The demonstration leaves its table, pictures and numbers."""

import json

import pytest
from PIL import Image

from lightning_advreg.cli import main


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--out", str(folder), "--epochs", "4"]) is None
    return folder, json.loads((folder / "results.json").read_text())


def test_it_leaves_the_numbers_of_both_networks(demo):
    _, results = demo
    undefended, defended = results["rows"]
    assert [undefended["network"], defended["network"]] == ["undefended", "defended"]
    assert undefended["clean accuracy"] > 0.8
    assert undefended["PGD-50 accuracy"] <= undefended["FGSM accuracy"] < undefended["clean accuracy"]
    assert results["images"] == 360


def test_the_curve_agrees_with_the_table(demo):
    _, results = demo
    curve = results["curve"]
    for row in results["rows"]:
        accuracies = dict(zip(curve["eps"], curve[row["network"]], strict=True))
        assert accuracies[0.0] == pytest.approx(row["clean accuracy"], abs=1e-4)
        # the test attacks batch by batch, the curve all images at once, so their random starts differ
        assert accuracies[results["eps"]] == pytest.approx(row["PGD-50 accuracy"], abs=0.05)


def test_it_leaves_pictures(demo):
    folder, _ = demo
    names = ["accuracy_vs_eps.png", "adversarial_examples_defended.png", "adversarial_examples_undefended.png"]
    assert sorted(path.name for path in folder.glob("*.png")) == names
    for name in names:
        with Image.open(folder / name) as picture:
            assert picture.width > 500


def test_no_epochs_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--out", str(tmp_path), "--epochs", "0"])
    assert "--epochs must be at least 1, got 0" in capsys.readouterr().err
