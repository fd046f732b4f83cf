"""NormAblation and DropoutAblation in two processes."""

from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.callbacks import DropoutAblation, NormAblation

from .foreign import Foreign, images, trainer


class Two(Foreign):
    """A network for each kind of layers, since processes take longer to start than to train."""

    def __init__(self):
        super().__init__()
        self.other = Foreign(seed=1).network

    def forward(self, x):
        return self.network(x) + self.other(x)

    def train_dataloader(self):
        # every other image to each process, where Lightning would shuffle: both batches together are that of the one
        rank, processes = self.trainer.global_rank, self.trainer.world_size
        x, y = images(16)
        return DataLoader(TensorDataset(x[rank::processes], y[rank::processes]), batch_size=8 // processes)


class Saved(Callback):
    def __init__(self, folder):
        self.folder = str(folder)

    def on_train_end(self, trainer, pl_module):
        norms = type(pl_module.network[1]).__name__, type(pl_module.other[1]).__name__, pl_module.network[4].p
        torch.save((norms, pl_module.state_dict()), Path(self.folder, f"{trainer.world_size}-{trainer.global_rank}.pt"))


def changes():
    # dropout draws otherwise in each process, so that it is switched off here
    return NormAblation("group", "network.*"), NormAblation("none", "other.*"), DropoutAblation(0)


def fit(folder, **settings):
    settings |= {"max_epochs": 2, "precision": "64-true", "use_distributed_sampler": False}
    trainer(folder, *changes(), Saved(folder), **settings).fit(Two())


def in_pair(folder):
    fit(folder, strategy="ddp", devices=2)


def test_two_processes_train_changed_layers_as_one_does(tmp_path, pair):
    fit(tmp_path)
    alone, first, second = (torch.load(path) for path in (tmp_path / "1-0.pt", pair / "2-0.pt", pair / "2-1.pt"))
    assert alone[0] == first[0] == second[0] == (nn.GroupNorm.__name__, "NoNorm", 0)
    assert {f"changed_by.{callback.text}" for callback in changes()[:2]} < first[1].keys()
    torch.testing.assert_close(dict(first[1]), dict(second[1]), rtol=0, atol=0)
    torch.testing.assert_close(dict(first[1]), dict(alone[1]), rtol=0, atol=1e-9)
