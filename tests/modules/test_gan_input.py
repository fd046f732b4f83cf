"""Bad input of the GAN is refused before time is spent."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import GAN
from lightning_advreg.constraints import Budget
from lightning_advreg.modules.gan_checks import refuse_trainer_settings

from .parts import SHAPE, digits, discriminator, gan, plain_gan, trainer


def fit(model, data=None):
    data = {"datamodule": digits()} if data is None else {"train_dataloaders": data}
    trainer(limit_train_batches=1, limit_val_batches=0).fit(model, **data)


BAD = {
    "n_critic": [(0, "at least 1, got 0"), (1.5, "integer of at least 1, got 1.5"), (True, "integer")],
    "ema_decay": [(1, "less than 1, got 1"), (-0.1, "at least 0, got -0.1"), ("x", "number")],
    "instance_noise": [(-1, "at least 0"), ("1:2", "number such as")],
    "instance_noise_images": [(0, "at least 1")],
    "num_fixed": [(0, "at least 1")],
    "latent_dim": [(0, "at least 1")],
}


@pytest.mark.parametrize(("name", "value", "message"), [(name, *case) for name, cases in BAD.items() for case in cases])
def test_bad_numbers_are_refused(name, value, message):
    with pytest.raises(ValueError, match=f"{name} must be .*{message}|{name} {message}"):
        gan(**{name: value})


def test_the_length_of_the_noise_must_be_known():
    with pytest.raises(ValueError, match=r"Linear has no attribute latent_dim; give GAN\(latent_dim=\.\.\.\)"):
        GAN(nn.Linear(4, 64), discriminator())
    net = nn.Sequential(nn.Linear(4, 64), nn.Sigmoid(), nn.Unflatten(1, SHAPE))
    assert GAN(net, discriminator(), latent_dim=4).sample(torch.randn(2, 4)).shape == (2, *SHAPE)


class Sketch(nn.Module):
    """A generator whose images have a shape and a range of its own."""

    latent_dim = 4

    def __init__(self, shape=SHAPE, scale=1.0):
        super().__init__()
        self.layer, self.shape, self.scale = nn.Linear(4, 1), shape, scale

    def forward(self, z):
        return self.scale * self.layer(z).sigmoid().view(-1, 1, 1, 1).expand(-1, *self.shape)


NETWORKS = {
    "generator's shape": (
        {"generator": Sketch((1, 9, 9))},
        r"generator makes images of shape \(1, 9, 9\), the data has \(1, 8, 8\); set the generator's image_shape",
    ),
    "generator's range": ({"generator": Sketch(scale=255)}, r"images must lie in \[0, 1\]"),
    "discriminator's shape": ({"discriminator": discriminator(image_shape=(1, 9, 9))}, r"\(N, 1, 9, 9\)"),
    "discriminator's logits": (
        {"discriminator": nn.Sequential(nn.Flatten(), nn.Linear(64, 2))},
        r"discriminator gives outputs of shape \(2, 2\) for 2 images; it must give one logit per image",
    ),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_that_do_not_fit_are_refused(case):
    settings, message = NETWORKS[case]
    with pytest.raises(ValueError, match=message):
        fit(plain_gan(**settings))
    with pytest.raises(ValueError, match=message):
        trainer().validate(plain_gan(**settings), datamodule=digits(), verbose=False)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(8, *SHAPE) * 2 - 1, ValueError, r"images must lie in \[0, 1\], got values from -"),
        (torch.ones(8, *SHAPE, dtype=torch.uint8), TypeError, "images must be floating point in"),
    ],
)
def test_bad_images_are_refused(images, error, message):
    data = DataLoader(TensorDataset(images, torch.zeros(8)), batch_size=4)
    with pytest.raises(error, match=message):
        fit(plain_gan(), data)


def test_a_column_of_logits_will_do():
    model = plain_gan(discriminator=nn.Sequential(nn.Flatten(), nn.Linear(64, 1)))
    fit(model)
    assert torch.isfinite(model.trainer.callback_metrics["train/d_loss"])


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_an_exceeded_budget_names_the_network(name):
    with pytest.raises(ValueError, match=f"{name} exceeds its budget: .* parameters used, 10 allowed"):
        gan(**{f"{name}_constraints": [Budget(parameters=10)]})


def test_processes_that_would_wait_for_the_other_network_are_refused():
    # without a second process: what PyTorch says of it there comes after training has begun, and names no remedy
    settings = {"accelerator": "cpu", "devices": 2, "logger": False, "enable_checkpointing": False}
    with pytest.raises(ValueError, match=r"gradients of both; set strategy='ddp_find_unused_parameters_true'"):
        refuse_trainer_settings(Trainer(strategy="ddp", **settings))
    refuse_trainer_settings(Trainer(strategy="ddp_find_unused_parameters_true", **settings))
    refuse_trainer_settings(Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False))
