"""The command line measures a GAN."""

import pytest
from lightning.pytorch import LightningModule

from lightning_advreg import GAN, RegularizedClassifier

from ..modules.parts import conv, discriminator, generator, trainer
from .runs import run


def saved(module: LightningModule, path: str) -> None:
    saving = trainer()
    saving.strategy.connect(module)
    saving.save_checkpoint(path)


def test_a_checkpoint_is_tested_in_the_eyes_of_a_classifier(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(GAN(generator(), discriminator(), num_fixed=64), "gan.ckpt")
    saved(RegularizedClassifier(conv()), "classifier.ckpt")
    flags = ["--trainer.callbacks.num_samples", "20", "--trainer.limit_test_batches", "2"]
    flags += ["--trainer.callbacks.extractor.init_args.classifier", "classifier.ckpt"]
    cli = run("test", "digits_gan", "--config", "eval/gan", *flags, "--ckpt_path", "gan.ckpt")
    (name,) = [key for key in cli.trainer.callback_metrics if key.endswith("/frechet")]
    assert name.startswith("test/gan/MNISTConvNet-")
    assert cli.trainer.callback_metrics[name] > 0
    with pytest.raises((SystemExit, FileNotFoundError, ValueError)):
        run("test", "digits_gan", "--config", "eval/gan", "--ckpt_path", "gan.ckpt")
