"""Checkpoints go from the command line to Python and back."""

import logging
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lightning_advreg import GAN, AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import FGSM
from lightning_advreg.cli import main
from lightning_advreg.penalties import L2

from ..modules.parts import ForeignNet, conv, digits, discriminator, generator, trainer
from .runs import SHORT, refused, root, run


class StopAfterFirstEpoch(Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = True


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A regularised classifier that the command line trained."""
    folder = tmp_path_factory.mktemp("runs")
    run("fit", "digits_regularized", "--trainer.default_root_dir", str(folder))
    return folder / "checkpoints" / "last.ckpt"


def test_a_checkpoint_of_the_command_line_is_plain_and_loads_in_python(checkpoint):
    stored = torch.load(checkpoint, weights_only=True)
    model = RegularizedClassifier.load_from_checkpoint(checkpoint)
    assert model.label_smoothing == 0.05
    assert model.penalties["elasticnet"].l2 == 1e-4
    assert model.optimizer(model.parameters()).defaults["lr"] == 1e-3
    assert torch.equal(
        model.state_dict()["network.features.0.weight"], stored["state_dict"]["network.features.0.weight"]
    )
    fitting = trainer(limit_train_batches=2, limit_val_batches=0)
    fitting.fit(model, datamodule=digits())
    fitting.save_checkpoint("again.ckpt")
    again = RegularizedClassifier.load_from_checkpoint("again.ckpt")
    assert again.constraints == model.constraints
    assert again.penalties == model.penalties


@pytest.mark.parametrize("command", ["test", "validate"])
def test_checkpoints_are_loaded_safely_without_a_flag(checkpoint, command, caplog):
    logging.getLogger("lightning.pytorch").propagate = True
    cli = run(command, "digits_regularized", "--ckpt_path", str(checkpoint))
    assert cli.config[command]["weights_only"] is True
    assert not [record for record in caplog.records if "weights_only" in record.getMessage()]
    assert (root("digits_regularized") / command / "results.json").is_file()


@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_a_checkpoint_of_another_class_is_refused(checkpoint, command, capsys):
    message = refused(capsys, command, "--config", "quickstart", *SHORT, "--ckpt_path", str(checkpoint))
    assert f"--ckpt_path {checkpoint} was saved by lightning_advreg.RegularizedClassifier" in message
    assert f"but the model to {command} is lightning_advreg.AdversarialClassifier; give the configuration" in message


def test_a_missing_checkpoint_is_named(capsys):
    message = refused(capsys, "test", "--config", "digits_regularized", *SHORT, "--ckpt_path", "nowhere.ckpt")
    assert "nowhere.ckpt" in message


def test_a_checkpoint_made_in_python_is_tested_on_the_command_line():
    model = AdversarialClassifier(
        conv(width=8), attack=FGSM(eps=0.1), penalties=[L2(1e-4)], optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    )
    fitting = trainer(limit_train_batches=2, limit_val_batches=0)
    fitting.fit(model, datamodule=digits())
    fitting.save_checkpoint("python.ckpt")
    # the configuration names another width: the checkpoint knows better
    cli = run("test", "quickstart", "--ckpt_path", "python.ckpt")
    assert torch.equal(cli.model.network.features[0].weight, model.network.features[0].weight)
    assert (cli.model.attack, cli.model.penalties) == (FGSM(eps=0.1), {"l2": L2(1e-4)})


def test_a_checkpoint_with_a_network_of_the_users_own_is_tested_on_the_command_line():
    model = RegularizedClassifier(ForeignNet())
    fitting = trainer(limit_train_batches=2, limit_val_batches=0)
    fitting.fit(model, datamodule=digits())
    fitting.save_checkpoint("foreign.ckpt")
    network = f"{ForeignNet.__module__}.ForeignNet"
    flags = ["--model", "RegularizedClassifier", "--model.network", network, "--data", "DigitsDataModule"]
    cli = main(["test", *flags, *SHORT, "--ckpt_path", "foreign.ckpt"])
    assert torch.equal(cli.model.network.layer.weight, model.network.layer.weight)


def test_a_gan_made_in_python_goes_on_on_the_command_line():
    model = GAN(generator(), discriminator(), num_fixed=64)
    fitting = trainer(limit_train_batches=2, limit_val_batches=0)
    fitting.fit(model, datamodule=digits())
    fitting.save_checkpoint("gan.ckpt")
    cli = run("fit", "digits_gan", "--ckpt_path", "gan.ckpt", "--trainer.max_epochs", "2")
    assert cli.model.batches_seen == 2 + 2
    assert cli.trainer.global_step == 4 + 4


@pytest.mark.parametrize("name", ["quickstart", "digits_gan"])
def test_a_stopped_run_goes_on_to_the_same_bits(name):
    flags = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "3"]
    whole = run("fit", name, *flags, "--trainer.default_root_dir", "whole")
    stopper = f"{StopAfterFirstEpoch.__module__}.StopAfterFirstEpoch"
    part = run("fit", name, *flags, "--trainer.default_root_dir", "part", f"--trainer.callbacks+={stopper}")
    assert part.trainer.current_epoch == 1
    last = "part/checkpoints/last.ckpt"
    rest = run("fit", name, *flags, "--trainer.default_root_dir", "part", "--ckpt_path", last, "--seed_everything", "9")
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[key]), key
    assert Path("part", "metrics_1.csv").is_file()
