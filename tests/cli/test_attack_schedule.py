"""Schedules of the attack, in YAML and in flags."""

from pathlib import Path

import pytest

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import AttackSchedule
from lightning_advreg.cli import main
from lightning_advreg.schedules import Piecewise, Ramp

from .runs import SHORT, refused

MODEL = """
model:
  class_path: AdversarialClassifier
  init_args:
    network: {class_path: MNISTConvNet, init_args: {image_size: 8, width: 4}}
    attack: {class_path: PGD, init_args: {eps: 8/255, step_size: 2/255, steps: 2}}
    attack_schedule:
      eps_factor: {class_path: Ramp, init_args: {epochs: 5/2, shape: cosine}}
      steps: {class_path: Piecewise, init_args: {milestones: [[0, 1], [1/2, 2]]}}
data: DigitsDataModule
"""
CALLBACK = """
model:
  class_path: RegularizedClassifier
  init_args:
    network: {class_path: MNISTConvNet, init_args: {image_size: 8, width: 4}}
data: DigitsDataModule
trainer:
  callbacks:
    - class_path: AdversarialTraining
      init_args:
        attack: {class_path: PGD, init_args: {steps: 1}}
        attack_schedule:
          eps_factor: {class_path: Ramp, init_args: {epochs: 5/2, shape: cosine}}
          steps: {class_path: Piecewise, init_args: {milestones: [[0, 1], [1/2, 2]]}}
"""
SCHEDULE = AttackSchedule(eps_factor=Ramp(epochs=2.5, shape="cosine"), steps=Piecewise(milestones=[(0, 1), (0.5, 2)]))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_reads_in_yaml_and_comes_back_from_the_checkpoint_and_the_saved_configuration():
    Path("mine.yaml").write_text(MODEL)
    cli = main(["fit", "--config", "mine.yaml", *SHORT])
    assert cli.model.attack_schedule == SCHEDULE
    cli.trainer.save_checkpoint("model.ckpt")
    assert AdversarialClassifier.load_from_checkpoint("model.ckpt").attack_schedule == SCHEDULE
    assert main(["fit", "--config", "runs/config.yaml", *SHORT]).model.attack_schedule == SCHEDULE


def test_it_reads_in_flags():
    flags = ["--model.attack_schedule.steps=Ramp", "--model.attack_schedule.steps.epochs=7/2"]
    flags += ["--model.attack_schedule.steps.end=2", "--model.eps_warmup_epochs=0"]
    cli = main(["fit", "--config", "quickstart", *SHORT, *flags])
    assert cli.model.attack_schedule == AttackSchedule(steps=Ramp(epochs=3.5, end=2))


def test_the_callback_reads_it_too():
    Path("mine.yaml").write_text(CALLBACK)
    (callback,) = [c for c in main(["fit", "--config", "mine.yaml", *SHORT]).trainer.callbacks if hasattr(c, "attack")]
    assert callback.attack_schedule == SCHEDULE


def test_both_forms_at_once_are_refused(capsys):
    flags = ["--model.attack_schedule.steps=Constant", "--model.attack_schedule.steps.number=2"]
    message = refused(capsys, "fit", "--config", "quickstart", *SHORT, *flags)
    assert "both say how the attack grows; give the schedule alone" in message
