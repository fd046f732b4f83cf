"""Tiny networks, data and trainers that the tests of the modules share."""

from functools import partial

import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from lightning_advreg import GAN, AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.constraints import (
    AdaptiveBound,
    Budget,
    CubicSparsity,
    MagnitudePruning,
    MaxNorm,
    Parseval,
    SpectralProjection,
    WeightClip,
)
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.modules import LinearOneCycle
from lightning_advreg.networks import MLPDiscriminator, MLPGenerator, MNISTConvNet
from lightning_advreg.penalties import L1, L2, ElasticNet
from lightning_advreg.schedules import Ramp

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}
SHAPE = (1, 8, 8)


def trainer(**settings):
    return Trainer(**{**QUIET, "max_epochs": 1, "log_every_n_steps": 1, **settings})


def digits(**settings):
    return DigitsDataModule(**{"batch_size": 16, "train_size": 96, "val_size": 32, **settings})


def conv(**settings):
    return MNISTConvNet(**{"image_size": 8, "width": 4, "hidden": 8, **settings})


def generator(**settings):
    return MLPGenerator(**{"latent_dim": 4, "image_shape": SHAPE, "hidden": (8,), **settings})


def discriminator(**settings):
    return MLPDiscriminator(**{"image_shape": SHAPE, "hidden": (8,), "dropout": 0.0, **settings})


class ForeignNet(nn.Module):
    """A network that knows nothing of this library."""

    def __init__(self, classes=10):
        super().__init__()
        self.layer = nn.Linear(64, classes)

    def forward(self, x):
        return self.layer(x.flatten(1))


class AtBatches(Callback):
    """Call ``see(trainer, module, batch)`` after every training batch."""

    def __init__(self, see):
        self.see = see

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.see(trainer, module, batch)


def adversarial(**settings):
    """Everything random and stateful switched on."""
    return AdversarialClassifier(
        **{
            "network": conv(norm="batch", dropout=0.3),
            "attack": PGD(eps=0.2, step_size="1/20", steps=2),
            "penalties": [L2(1e-3), L1(1e-4)],
            "constraints": [MaxNorm(0.5), Budget(parameters=10_000)],
            "eps_warmup_epochs": 2,
            "optimizer": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
            "lr_scheduler": LinearOneCycle,
            **settings,
        }
    )


def regularized(**settings):
    return RegularizedClassifier(
        **{
            "network": conv(norm="batch", dropout=0.3),
            "penalties": [ElasticNet(1e-4, 1e-3)],
            "constraints": [MaxNorm(0.5)],
            "label_smoothing": 0.1,
            "lr_scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
            **settings,
        }
    )


def every_constraint():
    """Constraints that carry tensors, follow a schedule, adapt, or measure, in an order in which all hold."""
    return [
        Parseval(beta=1e-3),
        SpectralProjection(Ramp(epochs=2, start=2, end=1.5), steps=5),
        MaxNorm(AdaptiveBound(0.6, share=0.25, rate=0.1)),
        WeightClip("1/2"),
        MagnitudePruning(CubicSparsity(end=0.5, epochs=2), interval=0.25),
        Budget(parameters=100_000),
    ]


def gan(**settings):
    decay = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    return GAN(
        **{
            "generator": generator(),
            "discriminator": discriminator(dropout=0.3),
            "discriminator_penalties": [L2(1e-3)],
            "discriminator_constraints": [WeightClip(0.1)],
            "generator_constraints": [MaxNorm(0.5)],
            "n_critic": 2,
            "instance_noise": 0.2,
            "instance_noise_images": 400,
            "ema_decay": 0.9,
            "num_fixed": 3,
            "discriminator_optimizer": partial(torch.optim.Adam, lr=4e-3),
            "generator_optimizer": partial(torch.optim.Adam, lr=1e-3),
            "discriminator_lr_scheduler": decay,
            "generator_lr_scheduler": decay,
            **settings,
        }
    )


def plain_gan(**settings):
    """Neither chance nor limits beyond what is asked for, and a generator step in every batch."""
    nothing = dict.fromkeys(
        ["generator_constraints", "discriminator_constraints", "discriminator_penalties"], ()
    ) | dict.fromkeys(["generator_lr_scheduler", "discriminator_lr_scheduler"])
    return gan(**{**nothing, "discriminator": discriminator(), "instance_noise": 0, "n_critic": 1, **settings})


def fit_gan(model, *, batches=4, epochs=1, **settings):
    fitting = trainer(max_epochs=epochs, limit_train_batches=batches, limit_val_batches=0, **settings)
    fitting.fit(model, datamodule=digits())
    return fitting


def alone(model, method, *args):
    """Call a loss of the module outside training."""
    model.log = model.log_dict = lambda *a, **k: None
    return getattr(model, method)(*args)


FROZEN = partial(torch.optim.SGD, lr=0.0)
BUILDERS = {"adversarial": adversarial, "regularized": regularized, "gan": gan}
