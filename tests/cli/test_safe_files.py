import os
import subprocess
import sys

import pytest
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.plugins import TorchCheckpointIO

from benchmarks.mutations import Hostile
from lightning_advreg.__main__ import console
from lightning_advreg.cli import main
from lightning_advreg.export import main as export
from lightning_advreg.files import SafeCheckpointIO, load_network
from lightning_advreg.files.packages import take_packages

from ..files.parts import edited
from .runs import SHORT, refused, root, run

MODEL = ["--config", "digits_regularized", *SHORT]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    before = os.getcwd()
    os.chdir(folder)
    try:
        cli = run("fit", "digits_regularized")
    finally:
        os.chdir(before)
    assert isinstance(cli.trainer.strategy.checkpoint_io, SafeCheckpointIO)
    return folder / root("digits_regularized") / "checkpoints" / "last.ckpt"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module that writes a file when it is imported."""
    canary = tmp_path / "canary"
    (tmp_path / "stranger.py").write_text(f"open({str(canary)!r}, 'w')\nclass Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    return canary


def test_a_checkpoint_that_is_not_safe_stops_the_command_before_it_begins(checkpoint, tmp_path, capsys):
    canary = tmp_path / "canary"
    hostile = edited(checkpoint, tmp_path / "bad.ckpt", lambda stored: stored.update(callbacks=Hostile(canary)))
    for command in ("fit", "test"):
        message = refused(capsys, command, *MODEL, "--ckpt_path", str(hostile))
        assert f"--ckpt_path: {hostile} is not read as a checkpoint: it asks for " in message
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:-50])
    assert "cut.ckpt is a truncated checkpoint" in refused(capsys, "test", *MODEL, "--ckpt_path", "cut.ckpt")
    assert "--weights_only false would run" in refused(capsys, "test", *MODEL, "--weights_only", "false")
    assert not canary.exists() and not (tmp_path / "runs").exists()


def test_a_checkpoint_imports_nothing_from_elsewhere(checkpoint, tmp_path, capsys, stranger):
    network = {"class_path": "stranger.Net"}
    edited(checkpoint, tmp_path / "bad.ckpt", lambda stored: stored["hyper_parameters"].update(network=network))
    assert "names stranger.Net, and stranger is not imported here" in refused(
        capsys, "test", *MODEL, "--ckpt_path", "bad.ckpt"
    )
    assert not stranger.exists()


def test_a_plugin_of_the_users_own_stays(tmp_path):
    cli = run("validate", "digits_regularized", "--trainer.plugins", "lightning.pytorch.plugins.TorchCheckpointIO")
    assert type(cli.trainer.strategy.checkpoint_io) is TorchCheckpointIO
    assert issubclass(SafeCheckpointIO, CheckpointIO)


def test_packages_are_taken_from_the_command_line_or_the_environment(monkeypatch):
    assert take_packages(["--allow_packages", "a", "b.c", "fit", "--x"]) == (["fit", "--x"], ["a", "b.c"])
    assert take_packages(["fit", "--allow_packages=a,b", "--x", "y"]) == (["fit", "--x", "y"], ["a", "b"])
    assert take_packages(["fit"]) == (["fit"], None)
    monkeypatch.setenv("LIGHTNING_ADVREG_ALLOW_PACKAGES", "c d")
    assert take_packages(["fit"]) == (["fit"], ["c", "d"])
    assert take_packages(["fit", "--allow_packages", "e"])[1] == ["e"]
    for wrong in (["--allow_packages"], ["--allow_packages", "a/b"], ["--allow_packages=*"]):
        with pytest.raises(ValueError, match=r"--allow_packages must list packages such as lightning_advreg torch"):
            take_packages(["fit", *wrong])


ALLOWED = ["--allow_packages", "lightning_advreg", "torch", "torchvision", "lightning", "torchmetrics", "--"]
TRIES = """
import sys
from lightning_advreg.cli import main
for flags in {tries!r}:
    try:
        main([*{command!r}, *flags])
        sys.stdout.write("RAN\\n")
    except SystemExit as error:
        sys.stdout.write(f"EXIT {{error.code}}\\n")
"""


def test_nothing_outside_of_the_allowed_packages_is_imported(tmp_path, stranger):
    """In a process of its own, since the restriction holds for as long as a process does."""
    (tmp_path / "inner.yaml").write_text("class_path: stranger.Net\n")
    (tmp_path / "model.yaml").write_text(
        "model: {class_path: RegularizedClassifier, init_args: {network: inner.yaml}}\n"
    )
    tries = [
        ["--model.network", "stranger.Net"],
        ["--model", "stranger.Net"],
        ["--model.network", "{class_path: stranger.Net}"],
        ["--trainer.callbacks+=stranger.Net"],
        ["--trainer.logger", "stranger.Net"],
        ["--model.penalties", "[stranger.Net]"],
        ["--model.penalties+=os.system"],
        ["--model.optimizer", "stranger.Net"],
        ["--config", "model.yaml"],
        ["--model.network.help", "stranger.Net"],
        ["--model.network", "torch.os.system"],
    ]
    command = ["fit", *ALLOWED[:-1], *MODEL, "--trainer.fast_dev_run", "true"]
    script = TRIES.format(tries=[*tries, []], command=command)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    said = [line for line in done.stdout.splitlines() if line.startswith(("EXIT", "RAN"))]
    assert said == ["EXIT 2"] * len(tries) + ["RAN"], done.stdout + done.stderr
    assert not stranger.exists()
    assert "Importing 'stranger.Net' is not allowed" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_program_says_one_line_and_no_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.yaml").write_text("x: &a [*a]\n")
    monkeypatch.setattr(sys, "argv", ["lightning-advreg", "fit", "--config", "a.yaml"])
    with pytest.raises(SystemExit, match=r"lightning-advreg: error: a.yaml refers to \*a inside of it"):
        console()


def test_weights_are_exported_from_a_run(checkpoint, capsys):
    assert export([str(checkpoint.parent.parent), "--out", "weights.safetensors"]) == 0
    assert f"The weights of {checkpoint} are in weights.safetensors" in capsys.readouterr().out
    network = load_network("weights.safetensors")
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(stored[f"network.{name}"], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "given, message", [("nowhere", "there is no checkpoint nowhere"), (".", "there is no checkpoint in .")]
)
def test_an_export_of_nothing_says_so_in_one_line(given, message, capsys):
    with pytest.raises(SystemExit) as caught:
        export([given])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.startswith("lightning-advreg export: error: ") and message in error
    assert error.count("\n") == 1


def test_in_this_process_other_packages_remain_allowed():
    assert main(["fit", *MODEL, "--trainer.fast_dev_run", "true"]) is not None
