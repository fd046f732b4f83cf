"""Our side of the other pages of docs/migration: every Python block runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.commands import COMMANDS

FOLDER = Path(__file__).parents[2] / "docs" / "migration"
PAGES = [path for path in sorted(FOLDER.glob("*.md")) if path.stem != "torchattacks"]
BLOCKS = [
    pytest.param(path, number, block, id=f"{path.stem}-{number}")
    for path in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL))
]


class Plain(LightningModule):
    """A module that knows nothing of attacks."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def given(tmp_path, monkeypatch):
    """The names that blocks take from the reader's program: 10 classes of small images."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    images, labels = torch.rand(24, 3, 8, 8), torch.arange(24) % 10
    loader = DataLoader(TensorDataset(images, labels), batch_size=12)
    names = {"model": model, "module": Plain(model), "images": images, "labels": labels, "EPOCHS": 1}
    names |= {name: loader for name in ("train_loader", "val_loader", "test_loader")}
    return {**names, "EPS": 8 / 255, "ALPHA": 2 / 255, "STEPS": 2}


@pytest.mark.parametrize(("path", "number", "block"), BLOCKS)
def test_a_block_runs(path, number, block, given):
    before = given["model"][4].weight.detach().clone()
    names = dict(given)
    exec(compile(block, f"{path.name} {number}", "exec"), names)
    for name in ("x_adv", "adv_images"):
        if name in names:
            change = (names[name] - given["images"]).abs().max()
            assert 0 < change <= 8 / 255 + 1e-6
    if "clean" in names:
        assert 0 <= names["pgd"] <= names["clean"] <= 1
    if "accuracies" in names:
        assert names["accuracies"] == sorted(names["accuracies"], reverse=True) and len(names["accuracies"]) == 3
    if "trainer" in names and ".fit(" in block:
        assert not torch.equal(before, given["model"][4].weight)
        assert {"val/robust_acc/pgd10", "val/robust_acc/pgd50"} & set(names["trainer"].callback_metrics)


def test_every_page_has_pairs_and_is_in_the_index():
    index = (FOLDER / "index.md").read_text("utf-8")
    for path in FOLDER.glob("*.md"):
        if path.stem != "index":
            text = path.read_text("utf-8")
            assert f"({path.name})" in index
            assert text.count("\nBefore") == text.count("\nAfter") >= 3
            assert "\n## What bites\n" in text and "\n## Names\n" in text


def test_parameters_of_dcgan_are_as_many_as_the_page_says():
    text = (FOLDER / "lightning_bolts.md").read_text("utf-8")
    (block,) = (one for one in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "DCGANGenerator" in one)
    names = {}
    exec(block, names)
    for network in (names["model"].generator, names["model"].discriminator):
        assert f"{sum(parameter.numel() for parameter in network.parameters()):,}" in text


def test_commands_of_the_pages_exist():
    named = {
        name
        for path in FOLDER.glob("*.md")
        for name in re.findall(r"lightning-advreg ([a-z]+)", path.read_text("utf-8"))
    }
    assert named and named <= set(COMMANDS)
