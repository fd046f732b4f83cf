"""Penalties from YAML and from flags."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_advreg.cli import main
from lightning_advreg.penalties import L1, L2, L2SP, ElasticNet, InputGradient, Jacobian
from lightning_advreg.schedules import Constant, Piecewise, Ramp

from .runs import QUIET, SHORT, refused, root, run

YAML = """
model:
  class_path: RegularizedClassifier
  init_args:
    network: {class_path: MNISTConvNet, init_args: {image_size: 8, width: 4}}
    penalties:
    - class_path: L1
      init_args: {pattern: features.*, weight: {class_path: Ramp, init_args: {epochs: 1/2, end: 1e-3}}}
    - {class_path: L1, init_args: {weight: 1e-4, pattern: [classifier.0.*, classifier.3.*]}}
    - class_path: L2SP
      init_args:
        weight: {class_path: Piecewise, init_args: {milestones: [[0, 1/10], [1, 0]]}}
    - {class_path: ElasticNet, init_args: {l1: 0, l2: {class_path: Constant, init_args: {number: 1/8}}}}
    - {class_path: InputGradient, init_args: {weight: 0.1}}
    - {class_path: Jacobian, init_args: {weight: 0.1, projections: null}}
    - {class_path: ConfidencePenalty, init_args: {weight: 0.1}}
    - {class_path: ActivityL1, init_args: {weight: 0.1, layers: "*"}}
    - {class_path: GroupLasso, init_args: {weight: 1e-3, eps: 1e-8}}
    - {class_path: Orthogonality, init_args: {weight: 1e-3, diagonal: false}}
    - {class_path: SpectralNormPenalty, init_args: {weight: 1e-3, iterations: 2}}
data: DigitsDataModule
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def shifted(network: nn.Module) -> Tensor:
    """A penalty of the user's own, which YAML names; jsonargparse asks for the type that it returns."""
    return network.classifier[0].bias.square().sum()


def test_every_penalty_goes_from_yaml_through_training_and_back():
    Path("mine.yaml").write_text(YAML)
    model = main(["fit", "--config", "mine.yaml", *SHORT]).model
    assert model.penalties["l1"] == L1(Ramp(epochs=0.5, end=1e-3), pattern="features.*")
    assert model.penalties["l1_2"] == L1(1e-4, pattern=["classifier.0.*", "classifier.3.*"])
    assert model.penalties["l2sp"].weight == Piecewise(milestones=[(0, 0.1), (1, 0)])
    assert model.penalties["elasticnet"] == ElasticNet(0, Constant(0.125))
    assert model.penalties["jacobian"] == Jacobian(0.1, projections=None)
    logged = next(Path("runs").glob("metrics.csv")).read_text()
    assert all(f"train/penalty/{name}_raw" in logged for name in model.penalties) and len(model.penalties) == 11
    # what was written repeats the run
    (config,) = Path("runs").glob("config.yaml")
    again = main(["fit", "--config", str(config), "--trainer.default_root_dir", "again"]).model
    stateless = {name: p for name, p in model.penalties.items() if not isinstance(p, torch.nn.Module)}
    assert {name: again.penalties[name] for name in stateless} == stateless


def test_penalties_are_added_by_flags():
    flags = ["--model.init_args.penalties+=InputGradient", "--model.init_args.penalties.weight", "1/4"]
    model = run("fit", "digits_regularized", *flags).model
    assert model.penalties["inputgradient"] == InputGradient(0.25) and "elasticnet" in model.penalties
    flags = ["--model.init_args.penalties+=L2", "--model.init_args.penalties.weight", "Ramp"]
    flags += ["--model.init_args.penalties.weight.epochs", "3"]
    assert run("fit", "digits_regularized", *flags).model.penalties["l2"] == L2(Ramp(epochs=3))


def test_a_function_of_the_users_own_is_named_by_its_path():
    model = run("fit", "digits_regularized", "--model.init_args.penalties+=tests.cli.test_penalties.shifted").model
    assert list(model.penalties) == ["elasticnet", "shifted"]
    assert "train/penalty/shifted" in (root("digits_regularized") / "metrics.csv").read_text()


def test_both_networks_of_a_gan_are_penalised_from_the_command_line():
    flags = ["--model.init_args.generator_penalties+=L2SP", "--model.init_args.generator_penalties.weight", "1/2"]
    flags += ["--model.init_args.discriminator_penalties+=ActivityL1"]
    flags += ["--model.init_args.discriminator_penalties.weight", "1e-3"]
    flags += ["--model.init_args.discriminator_penalties.layers", "*"]
    model = run("fit", "digits_gan", *flags).model
    assert isinstance(model.penalties["g"]["l2sp"], L2SP) and "activityl1" in model.penalties["d"]


def test_what_does_not_fit_is_refused_by_name(capsys):
    start = ["fit", "--config", "digits_regularized", *QUIET, "--model.init_args.penalties"]
    for penalty, message in (
        ("[{class_path: L1, init_args: {weight: -1}}]", "weight must be at least 0, got -1"),
        ("[{class_path: L1, init_args: {weight: 1, pattern: feature.*}}]", "pattern 'feature.*' matches no parameter"),
        ("[{class_path: L1, init_args: {weight: 1, patern: x}}]", "patern"),
        ("[{class_path: L1}]", "weight"),
    ):
        assert message in refused(capsys, *start, penalty)
    gan = ["fit", "--config", "digits_gan", *QUIET, "--model.init_args.generator_penalties"]
    refusal = refused(capsys, *gan, "[{class_path: InputGradient, init_args: {weight: 1}}]")
    assert "InputGradient is for classifiers" in refusal
