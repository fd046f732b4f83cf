"""The recipes of the documentation run as they are printed there, and do what they say."""

import re
import runpy
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"
RECIPES = sorted((DOCS / "recipes").glob("*.py"))


def run(name, **settings):
    return runpy.run_path(str(DOCS / "recipes" / f"{name}.py"))["main"](**settings)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fresh(module):
    """The weights of a module of the same class and seed, before training."""
    torch.manual_seed(0)
    return type(module)().state_dict()


def assert_trained_and_given_back(module):
    assert "training_step" not in vars(module)
    assert not [name for name in dict(module.named_children()) if name.startswith("_")]
    assert all(parameter.requires_grad for parameter in module.parameters())
    before = fresh(module)
    assert all(not torch.equal(before[name], p) for name, p in module.named_parameters())


def test_the_page_shows_the_files():
    page = (DOCS / "recipes.md").read_text()
    shown = re.findall(
        r"^\[recipes/(\w+)\.py\]\(recipes/\1\.py\)\n\n```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE
    )
    assert {name: code for name, code in shown} == {path.stem: path.read_text() for path in RECIPES}
    assert len(shown) == page.count("```python") == 5


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_a_screen_or_two(path):
    assert len(path.read_text().splitlines()) <= 65


def test_lightning_classifier():
    trainer, module = run("lightning_classifier", epochs=1)
    logged = trainer.callback_metrics
    assert 0 < logged["val/robust_acc/pgd20"] < logged["val_acc"]
    # the monitor and the attack were there
    assert logged["monitor/images"] > 0 and "train_loss" in logged
    assert_trained_and_given_back(module)


def test_timm_network():
    trainer, module = run("timm_network", epochs=1, max_samples=8)
    assert trainer.callback_metrics.keys() >= {"test/robust_acc/autoattack_fast", "test/acc"}
    (report,) = [found for callback in trainer.callbacks for found in getattr(callback, "reports", [])]
    assert report.worst_case.images == 8
    clean = torch.stack([x for x, _ in trainer.datamodule.test_set][:8])
    size = (report.x_adv - clean).abs().max()
    assert size <= 0.15 + 1e-6
    # gray digits of a network that normalises by (x - 0.5) / 0.5 are in its own range only after its first layer
    normalize = module.network[1][0]
    assert normalize(torch.zeros(1, 3, 1, 1)).tolist() == [[[[-1.0]]] * 3]


def test_torchvision_network():
    trainer, module, pixels, x_adv, robust = run("torchvision_network", epochs=1)
    # budget and box in pixels
    assert 0.09 < (x_adv - pixels).abs().max() <= 0.1 + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    # what the callback measures on normalised images is what the attack does to a network from pixels
    assert trainer.callback_metrics["val/robust_acc/pgd"] == pytest.approx(float(robust), abs=0.01)
    assert_trained_and_given_back(module)


def test_plain_pytorch(capsys):
    model, report = run("plain_pytorch", epochs=1, max_samples=8)
    assert report.clean.images == 8 and set(report.attacks) == {"pgd20", "autoattack"}
    assert report.worst_case.correct <= report.attacks["pgd20"].robust.correct <= report.clean.correct
    # the constraint holds after the last step, and bites; the attack of training left no gradient frozen
    norms = [weight.flatten(1).norm(dim=1).max() for weight in (model[0].weight, model[3].weight, model[6].weight)]
    assert max(norms).item() == pytest.approx(0.65, abs=1e-5)
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in model.parameters())
    assert "epoch 0: loss" in capsys.readouterr().out
    # attacks in eval mode leave the statistics to the 22 training passes
    assert model[1].num_batches_tracked == 22


def test_dict_batches():
    trainer, module = run("dict_batches", epochs=1, max_samples=8)
    logged = trainer.callback_metrics
    assert logged.keys() >= {"test/robust_acc/pgd20", "test/robust_acc/autoattack_fast", "test_acc"}
    assert logged["test/robust_acc/pgd20"] < logged["test_acc"]
    assert_trained_and_given_back(module)
