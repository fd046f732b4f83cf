"""A classifier as users have it: it knows nothing of attacks."""

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def images(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 1, 4, 4, generator=generator)
    return x, (x[:, 0, :, :2].mean((1, 2)) > x[:, 0, :, 2:].mean((1, 2))).long()


def loader(n, batch_size=4, seed=0, shuffle=False):
    return DataLoader(TensorDataset(*images(n, seed)), batch_size=batch_size, shuffle=shuffle)


class Foreign(pl.LightningModule):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.Flatten(),
                nn.Dropout(0.2),
                nn.Linear(128, 2),
            )
        self.learning_rate = 0.1

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.log("test/loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate)


def trainer(tmp_path, *callbacks, **kwargs):
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 1,
        "default_root_dir": tmp_path,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**defaults, **kwargs})


class Probe:
    """An attack that changes nothing and remembers what it was called with."""

    def __init__(self):
        self.sizes = []
        self.autocast = []
        self.draws = []

    def __call__(self, model, x, y):
        self.sizes.append(len(x))
        self.autocast.append(torch.is_autocast_enabled(x.device.type))
        self.draws.append(torch.rand(()).item())
        return x


class At(Callback):
    """Call a function of (trainer, module) at one hook."""

    def __init__(self, hook, function):
        setattr(self, hook, lambda trainer, module, *args, **kwargs: function(trainer, module))
