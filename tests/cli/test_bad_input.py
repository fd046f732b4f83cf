"""What the command line says of bad input, before training starts and where it breaks off."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_advreg.callbacks import FiniteTraining
from lightning_advreg.cli import main
from lightning_advreg.run_folder import held

from .runs import QUIET, SHORT, refused, root, run


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def network(text):
    return f"model: {{class_path: RegularizedClassifier, init_args: {{network: {text}}}}}\ndata: DigitsDataModule\n"


CONFIGS = {
    "unknown key": (
        "trainer: {max_epoch: 3}\n",
        "there is no setting 'trainer.max_epoch'; did you mean trainer.max_epochs",
    ),
    "unknown section": ("modell: {class_path: A}\n", "there is no setting 'modell.class_path'; did you mean model?"),
    "unknown argument": (
        network("{class_path: MNISTConvNet, init_args: {image_sise: 8}}"),
        "MNISTConvNet has no argument 'image_sise'; did you mean image_size? It takes ",
    ),
    "unknown class": (
        network("MNISTConvNett"),
        "there is no class 'MNISTConvNett' for network; did you mean MNISTConvNet?",
    ),
    "unknown callback": (
        "trainer: {callbacks: [{class_path: RobustAcuracy}]}\n",
        "there is no class 'RobustAcuracy' for trainer.callbacks; did you mean RobustAccuracy",
    ),
    "wrong type": (
        network("{class_path: MNISTConvNet, init_args: {width: wide}}"),
        "width of MNISTConvNet must be of type int, got 'wide'",
    ),
    "missing value": (
        "model: {class_path: RegularizedClassifier}\ndata: DigitsDataModule\n",
        "RegularizedClassifier needs network, which is not given",
    ),
    "no yaml": ("model: [open\n", "mine.yaml, line"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_is_wrong(case, capsys):
    text, said = CONFIGS[case]
    Path("mine.yaml").write_text(text)
    message = refused(capsys, "fit", "--config", "mine.yaml")
    # in the first line that is an error, before all details
    assert said in message[message.find("error: ") :].splitlines()[0] if "error: " in message else said in message


def test_flags_that_are_wrong(capsys):
    message = refused(capsys, "fit", "--config", "quickstart", "--model.attack.init_args.epsilon=0.1")
    assert "error: PGD has no argument 'epsilon'; did you mean eps?" in message
    message = refused(capsys, "fit", "--config", "quickstart", "--model.attack=PGB")
    assert "error: there is no class 'PGB' for attack; did you mean PGD?" in message
    message = refused(capsys, "fit", "--config", "quickstart", "--trainer.max_epochs=many")
    assert "error: trainer.max_epochs must be of type int, got 'many'" in message
    assert "usage:" not in message
    assert "error: there is no command 'fitt'; did you mean fit?" in refused(capsys, "fitt")


def test_two_runs_in_one_folder(capsys):
    folder = root("quickstart")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").write_text("of the run that goes on")
    with held(folder):
        message = refused(capsys, "fit", "--config", "quickstart", *SHORT)
    assert f"{folder} is in use by process {os.getpid()}" in message and "--trainer.default_root_dir FOLDER" in message
    # nothing of the other run was moved
    assert (folder / "checkpoints" / "last.ckpt").read_text() == "of the run that goes on"


def test_a_folder_that_cannot_be_written_to(capsys):
    Path("file").write_text("")
    flags = ["--trainer.default_root_dir", "file/runs"]
    message = refused(capsys, "fit", "--config", "quickstart", *SHORT, *flags)
    assert "nothing can be written into file/runs (Not a directory); set trainer.default_root_dir" in message


def test_a_loss_that_is_not_finite(recwarn):
    flags = ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1.0e+30", "--model.constraints", "[]"]
    with pytest.raises(FloatingPointError, match=r"weights are not finite, and training ends"):
        run("fit", "digits_regularized", *flags)
    folder = root("digits_regularized")
    text = (folder / "how_to_continue.txt").read_text()
    assert "by FloatingPointError: epoch" in text and "lightning-advreg fit --config" in text
    for path in folder.rglob("*.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values())


def test_a_run_is_watched_over_once_and_lets_go_of_its_folder():
    flags = ["--trainer.callbacks+=FiniteTraining", "--trainer.callbacks.every_n_batches=7"]
    cli = run("fit", "quickstart", *flags)
    found = [callback for callback in cli.trainer.callbacks if isinstance(callback, FiniteTraining)]
    assert [callback.every_n_batches for callback in found] == [7]
    assert not (root("quickstart") / ".lock").exists() and not (root("quickstart") / "how_to_continue.txt").exists()


@pytest.mark.parametrize("batch_size", [1])
def test_a_batch_of_one_and_batch_norm(batch_size, capsys):
    np.savez("one.npz", image=np.zeros((10, 8, 8), np.uint8), label=np.arange(10) % 10)
    flags = ["--data", "ArrayDataModule", "--data.path", "one.npz", "--data.batch_size", str(batch_size)]
    flags += ["--data.val_size", "0"]
    message = refused(capsys, "fit", "--config", "digits_regularized", *QUIET, *flags)
    assert "a batch of 1 image gives BatchNorm no statistics (BatchNorm2d" in message
    assert "set batch_size of the data to 2 or more" in message
    assert main(["fit", "--config", "digits_regularized", *SHORT, *flags, "--model.network.norm=group"]) is not None
