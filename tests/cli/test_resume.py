"""``fit --resume FOLDER`` on the command line."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lightning_advreg.cli import main
from lightning_advreg.resuming import resumed

from .runs import refused, root, run

OFF = ("--trainer.enable_checkpointing", "false", "--trainer.callbacks", "null")


class CutOff(RuntimeError):
    pass


class CutInThirdBatch(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == 2:
            raise CutOff


def test_a_killed_run_goes_on_with_one_flag_and_then_says_that_it_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--trainer.limit_train_batches", "4", "--trainer.callbacks+=ExactResume"]
    flags += ["--trainer.callbacks.every_n_train_steps", "1"]
    whole = run("fit", "quickstart", *flags, "--trainer.default_root_dir", "whole")
    cut = f"--trainer.callbacks+={CutInThirdBatch.__module__}.CutInThirdBatch"
    with pytest.raises(CutOff):
        run("fit", "quickstart", *flags, "--trainer.default_root_dir", "part", cut)
    # the callback that failed stands in the configuration
    monkeypatch.setattr(CutInThirdBatch, "on_train_batch_end", lambda *args: None)
    capsys.readouterr()
    rest = main(["fit", "--resume", "part", "--seed_everything", "9"])
    assert rest.trainer.global_step == 4
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, rest.model.state_dict()[key]), key
    assert not Path("part", "resume_1.ckpt").exists()
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--resume=part"])
    assert caught.value.code == 0
    assert "The run in part is finished, after epoch 1 and step 4; give a larger" in capsys.readouterr().out
    assert not Path("part", "metrics_2.csv").exists()


def test_every_run_can_be_continued_unless_checkpoints_are_off(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run("fit", "digits_regularized", "--ckpt_path", "resume", *OFF)
    assert "There is nothing to continue in runs/digits_regularized, and a new run begins." in capsys.readouterr().out
    assert not (root("digits_regularized") / "resume.ckpt").exists()
    run("fit", "digits_regularized")
    assert (root("digits_regularized") / "resume.ckpt").is_file()


def test_a_folder_of_no_run_is_named(tmp_path, capsys):
    message = refused(capsys, "fit", "--resume", str(tmp_path))
    assert f"--resume {tmp_path} is not the folder of a run, since it has no config.yaml; name one" in message


def test_other_arguments_stay_where_they_are():
    assert resumed(["fit", "--config", "quickstart"]) == ["fit", "--config", "quickstart"]
