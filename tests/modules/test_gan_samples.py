"""What the GAN shows its discriminator, and what it samples."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.callbacks import GeneratedSamples
from lightning_advreg.modules.gan_verdict import judge
from lightning_advreg.networks import DCGANDiscriminator, DCGANGenerator

from .parts import FROZEN, SHAPE, AtBatches, digits, discriminator, fit_gan, gan, plain_gan, trainer


class Seen(nn.Module):
    """A discriminator that keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.shown = []

    def forward(self, x):
        self.shown.append(x.detach().clone())
        return (self.weight * x).flatten(1).mean(1)


class Grey(nn.Module):
    """A generator of grey images, so that all that differs from grey is noise."""

    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, z):
        return (self.weight * z.mean(1)).sigmoid().view(-1, 1, 1, 1).expand(-1, *SHAPE)


def test_instance_noise_falls_linearly_and_is_on_real_and_generated_images():
    model = plain_gan(
        generator=Grey(),
        discriminator=Seen(),
        instance_noise="1/2",
        instance_noise_images=48,
        generator_optimizer=FROZEN,
        discriminator_optimizer=FROZEN,
    )
    grey = torch.full((64, *SHAPE), 0.5)
    data = DataLoader(TensorDataset(grey, torch.zeros(64, dtype=torch.int64)), batch_size=16)
    levels = []
    see = AtBatches(lambda t, m, b: levels.append(m.noise_level))
    fitting = trainer(callbacks=[see])
    fitting.fit(model, data)
    assert levels == pytest.approx([1 / 3, 1 / 6, 0, 0])
    # each batch: real and generated in D's step at one level, generated in G's step at the next; one check at the start
    shown = model.discriminator.shown[1:]
    assert len(shown) == 12
    expected = [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1 / 6, 1 / 6, 1 / 6, 0, 0, 0, 0]
    spread = [float((x - 0.5).std()) for x in shown]
    assert spread == pytest.approx(expected, abs=0.03)
    assert spread[-4:] == [0.0] * 4
    model.discriminator.shown.clear()
    model.images_seen = 0
    assert model.noise_level == 0.5
    fitting.validate(model, data, verbose=False)
    fitting.test(model, data, verbose=False)
    assert all(torch.equal(x, grey[: len(x)]) for x in model.discriminator.shown)


def test_the_level_of_the_noise_is_logged():
    model = plain_gan(instance_noise=0.3, instance_noise_images=160)
    fitting = fit_gan(model, batches=2)
    # the generator's step of the second batch, after 32 images
    assert float(fitting.callback_metrics["train/instance_noise"]) == pytest.approx(0.3 * 0.8)
    assert "train/instance_noise" not in fit_gan(plain_gan()).callback_metrics


def test_dropout_of_the_discriminator_is_on_in_training_and_off_in_validation():
    model = plain_gan(
        discriminator=discriminator(dropout=0.5), generator_optimizer=FROZEN, discriminator_optimizer=FROZEN
    )
    fitting = trainer()
    a, b = (fitting.validate(model, datamodule=digits(), verbose=False)[0]["val/d_real"] for _ in range(2))
    assert a == b
    model.train()
    real = torch.rand(8, *SHAPE)
    torch.manual_seed(0)
    first = judge(model.discriminator, real, None).logits
    assert not torch.equal(first, judge(model.discriminator, real, None).logits)


def test_held_out_logits_equal_a_direct_computation():
    model = plain_gan()
    fit_gan(model)
    data = digits(eval_batch_size=5)
    (found,) = trainer().validate(model, datamodule=data, verbose=False)
    x = torch.cat([x for x, _ in data.val_dataloader()])
    assert found["val/d_real"] == pytest.approx(model.discriminator.eval()(x).mean().item(), rel=1e-5)
    assert set(trainer().test(model, datamodule=data, verbose=False)[0]) == {"test/d_real", "test/d_fake"}


def test_samples_come_from_the_average_in_eval_mode_without_gradients():
    model = plain_gan(num_fixed=5)
    fit_gan(model)
    model.train()
    images = model.sample(model.fixed_latent)
    assert images.shape == (5, *SHAPE)
    assert not images.requires_grad
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    # eval mode: an image does not depend on the others in its batch
    torch.testing.assert_close(model.sample(model.fixed_latent[:1]), images[:1])
    torch.testing.assert_close(model.generator_ema.eval()(model.fixed_latent), images)
    assert torch.equal(model(model.fixed_latent), images)
    assert model.generator.training


def test_the_fixed_latent_vectors_stay():
    model = plain_gan()
    before = model.fixed_latent.clone()
    fit_gan(model)
    assert torch.equal(model.fixed_latent, before)
    assert "fixed_latent" in model.state_dict()


def test_the_pictures_of_a_run(tmp_path):
    fit_gan(gan(), callbacks=[GeneratedSamples(num_images=3)], default_root_dir=tmp_path)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["samples_000001.png"]


def test_dcgan_networks_train():
    shape = (1, 16, 16)
    model = plain_gan(
        generator=DCGANGenerator(latent_dim=4, image_shape=shape, width=4),
        discriminator=DCGANDiscriminator(image_shape=shape, width=4, dropout=0.2),
    )
    data = DataLoader(TensorDataset(torch.rand(16, *shape), torch.zeros(16)), batch_size=8)
    trainer().fit(model, data)
    assert model.sample(model.fixed_latent).shape == (3, *shape)
