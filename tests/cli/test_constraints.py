"""Every constraint by YAML and by flags, and back from a checkpoint."""

from pathlib import Path

import pytest
import torch
import yaml

from lightning_advreg import RegularizedClassifier
from lightning_advreg.cli import main
from lightning_advreg.constraints import CubicSparsity, Parseval
from lightning_advreg.schedules import Ramp

from .runs import SHORT, refused

CONFIG = """
model:
  class_path: RegularizedClassifier
  init_args:
    network: {class_path: MNISTConvNet, init_args: {image_size: 8, width: 4, norm: batch}}
    constraints:
      - {class_path: Parseval, init_args: {beta: 1/1000, pattern: "features.*"}}
      - class_path: SpectralProjection
        init_args:
          bound: {class_path: Ramp, init_args: {epochs: 1, start: 2, end: 3/2}}
          operator: convolution
          map_size: 4
          pattern: ["features.*"]
      - class_path: MaxNorm
        init_args: {bound: {class_path: AdaptiveBound, init_args: {start: 1/2, share: 1/4}}}
      - {class_path: NonNegative, init_args: {pattern: "classifier.0.*"}}
      - class_path: MagnitudePruning
        init_args:
          sparsity: {class_path: CubicSparsity, init_args: {end: 0.5, epochs: 1}}
          granularity: unit
          interval: 1/2
          pattern: "features.*"
      - {class_path: Orthogonal, init_args: {gain: 1/2, pattern: classifier.3.weight}}
      - {class_path: LipschitzReport, init_args: {image_shape: [1, 8, 8]}}
      - {class_path: Budget, init_args: {parameters: 50000, layers: 4}}
data: DigitsDataModule
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(CONFIG)


def test_every_constraint_is_a_line_of_yaml_and_comes_back_from_a_checkpoint():
    cli = main(["fit", "--config", "mine.yaml", *SHORT])
    limits = cli.model.limits.by_name
    assert limits["parseval"] == Parseval(beta=0.001, pattern="features.*")
    assert limits["spectralprojection"].bound == Ramp(epochs=1, start=2, end=1.5)
    assert limits["maxnorm"].bound.share == 0.25
    assert limits["magnitudepruning"].sparsity == CubicSparsity(end=0.5, epochs=1)
    logged = cli.trainer.logged_metrics
    assert {name.split("/")[2] for name in logged if name.startswith("train/constraint/")} == set(limits)
    # two steps of a quarter of the way each, with units rounded
    assert (cli.model.network.features[3].weight.detach().flatten(1) == 0).all(1).any()

    path = "last.ckpt"
    cli.trainer.save_checkpoint(path)
    again = RegularizedClassifier.load_from_checkpoint(path)
    state, other = cli.model.limits.state_dict(), again.limits.state_dict()
    assert "maxnorm.value" in state
    assert any(name.startswith("magnitudepruning.kept/") for name in state)
    assert state.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in state.items())

    resumed = main(["fit", "--config", "mine.yaml", *SHORT, "--trainer.max_epochs", "2", "--ckpt_path", path])
    assert resumed.trainer.current_epoch == 2
    assert (resumed.model.network.features[3].weight.detach().flatten(1) == 0).all(1).sum() >= 4


def test_flags_add_a_constraint_and_change_its_bound():
    flags = ["--model.constraints+=SpectralProjection", "--model.constraints.bound=3/4"]
    flags += ["--model.constraints.exact=true", "--model.constraints.pattern=classifier.*"]
    cli = main(["fit", "--config", "mine.yaml", *SHORT, *flags])
    kept = yaml.safe_load(Path("runs", "config.yaml").read_text())
    assert kept["model"]["init_args"]["constraints"][-1]["init_args"]["bound"] == "3/4"
    for name, weight in cli.model.network.classifier.named_parameters():
        if weight.dim() > 1:
            assert torch.linalg.svdvals(weight.detach())[0] <= 0.75 * (1 + 1e-5), name


def test_a_bound_that_falls_to_zero_is_refused_by_name(capsys):
    flags = ["--model.constraints+=WeightClip", "--model.constraints.bound=Ramp", "--model.constraints.bound.epochs=3"]
    message = refused(capsys, "fit", "--config", "mine.yaml", *SHORT, *flags)
    assert "bound must stay positive, got 0 from Ramp" in message
