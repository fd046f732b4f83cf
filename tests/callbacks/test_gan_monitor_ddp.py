"""The GAN monitor over two processes, of a discriminator with spectral norm."""

import json
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import GAN
from lightning_advreg.callbacks import GANMonitor

from ..modules.parts import SHAPE, discriminator, generator, trainer


class Shares(LightningDataModule):
    """Each process has batches of its own; in the third look the second one has a single image."""

    def train_dataloader(self):
        rank = self.trainer.global_rank
        images = torch.rand(64, *SHAPE, generator=torch.Generator().manual_seed(rank))
        sizes = [8, 8, 1 if rank == 1 else 8, 8, 8]
        places = torch.arange(sum(sizes)).split(sizes)
        return DataLoader(TensorDataset(images, torch.zeros(64)), batch_sampler=[part.tolist() for part in places])


class BrokenOnOne(GAN):
    def _compare(self, on_real, on_fake, y):
        broken = self.global_rank == 1 and self.batches_seen == 4
        return super()._compare(on_real, on_fake, y) * (float("nan") if broken else 1.0)


class WriteVerdict(Callback):
    def __init__(self, folder):
        self.folder = str(folder)

    def on_train_end(self, trainer, pl_module):
        monitor = next(other for other in trainer.callbacks if isinstance(other, GANMonitor))
        found = monitor.state_dict()
        own = found.pop("norms")["steps"]
        layer = next(layer for layer in pl_module.discriminator.modules() if isinstance(layer, torch.nn.Linear))
        vector = layer.parametrizations.weight[0]._u.tolist()
        Path(self.folder, f"{trainer.global_rank}.json").write_text(json.dumps([found, own, vector]))


def in_pair(folder):
    torch.manual_seed(0)
    adam = partial(torch.optim.Adam, lr=1e-3)
    model = BrokenOnOne(
        generator(norm="none"),
        discriminator(spectral_norm=True),
        generator_optimizer=adam,
        discriminator_optimizer=adam,
    )
    run = trainer(
        callbacks=[GANMonitor(every_n_batches=1, warmup=0), WriteVerdict(folder)],
        strategy="ddp_find_unused_parameters_true",
        devices=2,
        use_distributed_sampler=False,
        limit_val_batches=0,
        default_root_dir=folder,
    )
    run.fit(model, datamodule=Shares())


def test_two_processes_come_to_one_verdict_and_do_not_wait_for_each_other(pair):
    first, second = (json.loads((pair / f"{rank}.json").read_text()) for rank in range(2))
    assert first[:2] == second[:2]
    found, steps, _ = first
    assert steps == 5
    # four looks, of which one process saw the third one alone; the batch that broke ended the run before its own
    assert len(found["looks"]) == 4
    alarm = next(each for each in found["alarms"] if each["name"] == "non_finite_loss")
    # the sum of the gradients breaks the generator's loss on the other process as well
    assert "loss of batch 4 of process" in alarm["message"]
    assert "was infinite or not a number" in alarm["message"]
