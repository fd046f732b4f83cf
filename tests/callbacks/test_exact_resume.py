"""A run that is cut off anywhere, and continued, ends with the bits of one that was not."""

import random
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.augmentations import InputNoise
from lightning_advreg.callbacks import BatchAugmentation, ExactResume, WeightAverage
from lightning_advreg.penalties import R1

from ..modules.parts import adversarial, digits, gan, regularized, trainer
from ..modules.test_resume import assert_same

EPOCHS = 3


class CutOff(RuntimeError):
    pass


class Cut(Callback):
    """Fail after so many batches, as abruptly as a test can."""

    def __init__(self, batches, *, at="on_train_batch_end"):
        self.left = batches
        setattr(self, at, self._count)

    def _count(self, *args):
        self.left -= 1
        if self.left == 0:
            raise CutOff


class Chance(pl.LightningModule):
    """Somebody's module, which draws from every generator and keeps house in the last hook of a batch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("mean", torch.zeros(2))

    def training_step(self, batch, batch_idx):
        x, y = batch
        scale = random.random() + np.random.rand() + torch.rand(())
        return nn.functional.cross_entropy(self.layer(x * scale), y)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.layer(batch[0]).square().mean() + random.random())

    def on_train_batch_end(self, *args):
        self.mean.lerp_(self.layer.bias.detach(), 0.1)

    def on_train_epoch_start(self):
        random.random()

    def on_train_start(self):
        # a new start draws here again
        torch.rand(3)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}


def foreign_data(workers=0, batches=6):
    x = torch.rand(4 * batches, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x.sum(1) > 2).long())
    train = DataLoader(data, batch_size=4, shuffle=True, num_workers=workers)
    return {"train_dataloaders": train, "val_dataloaders": DataLoader(data, batch_size=12)}


def fit(module, folder, data, *, seed=0, callbacks=(), ckpt_path=None, resume=None, **settings):
    seed_everything(seed, verbose=False)
    module = module()
    resume = resume or ExactResume(every_n_train_steps=1, every_n_minutes=None)
    fitting = trainer(
        **{"max_epochs": EPOCHS, "default_root_dir": folder, "callbacks": [*callbacks, resume], **settings}
    )
    fitting.fit(module, **data(), ckpt_path=ckpt_path, weights_only=True)
    return module, fitting


def assert_same_end(first, second):
    (module, fitted), (module_2, fitted_2) = first, second
    assert_same(dict(module.state_dict()), dict(module_2.state_dict()))
    for one, other in zip(fitted.optimizers, fitted_2.optimizers, strict=True):
        assert_same(one.state_dict(), other.state_dict())
    for one, other in zip(fitted.lr_scheduler_configs, fitted_2.lr_scheduler_configs, strict=True):
        assert_same(one.scheduler.state_dict(), other.scheduler.state_dict())
    assert (fitted.global_step, fitted.current_epoch) == (fitted_2.global_step, fitted_2.current_epoch)
    # where loggers put what comes next
    steps = [each.fit_loop.epoch_loop._batches_that_stepped for each in (fitted, fitted_2)]
    assert steps[0] == steps[1]


def assert_continues(module, folder, data, batches, *, callbacks=lambda: (), at="on_train_batch_end", **settings):
    whole = fit(module, folder / "whole", data, callbacks=callbacks(), **settings)
    with pytest.raises(CutOff):
        fit(module, folder / "part", data, callbacks=[*callbacks(), Cut(batches, at=at)], **settings)
    path = folder / "part" / "resume.ckpt"
    rest = fit(module, folder / "part", data, seed=99, callbacks=callbacks(), ckpt_path=path, **settings)
    assert_same_end(whole, rest)
    return whole, rest


def own_data(**settings):
    return lambda: {"datamodule": digits(**settings)}


def gan_in_the_middle_of_things():
    return gan(accumulate_grad_batches=2, critic_penalties=[R1(1.0, every=3)])


CASES = {
    "adversarial": (adversarial, lambda: [WeightAverage(0.9)]),
    "regularized": (regularized, lambda: [BatchAugmentation([InputNoise(std=0.1)])]),
    "gan": (gan_in_the_middle_of_things, lambda: []),
}


@pytest.mark.parametrize(
    ("kind", "batches"), [("adversarial", 4), ("adversarial", 7), ("regularized", 8), ("gan", 6), ("gan", 9)]
)
def test_a_run_cut_off_anywhere_ends_with_the_same_bits(kind, batches, tmp_path):
    module, callbacks = CASES[kind]
    loader = "resident" if batches % 2 else "standard"
    data = own_data(loader=loader, augment=True)
    assert_continues(module, tmp_path, data, batches, callbacks=callbacks, val_check_interval=3)


@pytest.mark.parametrize("settings", [{}, {"max_steps": 16, "max_epochs": -1}, {"accumulate_grad_batches": 4}])
@pytest.mark.parametrize("batches", [5, 7, 9])
def test_a_module_and_loader_of_the_users_own_too(batches, settings, tmp_path):
    assert_continues(Chance, tmp_path, foreign_data, batches, **settings)


class ByValidation(Chance):
    """Its learning rate goes by the last validation at steps that have none."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.7, patience=0)
        scheduler = {"scheduler": plateau, "monitor": "val/loss", "interval": "step", "frequency": 3, "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


@pytest.mark.parametrize("batches", [3, 8, 9])
def test_what_goes_by_the_last_validation_finds_it(batches, tmp_path):
    assert_continues(ByValidation, tmp_path, foreign_data, batches, val_check_interval=2)


def test_a_loader_with_workers_too(tmp_path):
    assert_continues(Chance, tmp_path, partial(foreign_data, workers=1), 9, max_epochs=2)


class Validations(Callback):
    def __init__(self):
        self.steps = []

    def on_validation_end(self, trainer, pl_module):
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize("batches", [3, 4, 5])
def test_no_validation_runs_twice_or_not_at_all(batches, tmp_path):
    # one that looks for the best metric, or for patience, counts them
    seen = [Validations() for _ in range(3)]
    settings = {"max_epochs": 2, "val_check_interval": 3}
    whole = fit(Chance, tmp_path / "whole", foreign_data, callbacks=[seen[0]], **settings)
    with pytest.raises(CutOff):
        fit(Chance, tmp_path / "part", foreign_data, callbacks=[seen[1], Cut(batches)], **settings)
    path = tmp_path / "part" / "resume.ckpt"
    assert_same_end(
        whole, fit(Chance, tmp_path / "part", foreign_data, callbacks=[seen[2]], ckpt_path=path, **settings)
    )
    assert seen[0].steps == [3, 6, 9, 12]
    assert seen[1].steps + seen[2].steps == seen[0].steps
