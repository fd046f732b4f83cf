"""Stochastic regularisation, in YAML."""

from pathlib import Path

import pytest

from lightning_advreg import RegularizedClassifier
from lightning_advreg.augmentations import AugMix, Cutout, InputNoise, MixUp
from lightning_advreg.callbacks import ActivationNoise, AdaptiveGradientClipping, BatchAugmentation, WeightAverage
from lightning_advreg.cli import main
from lightning_advreg.penalties import JensenShannon
from lightning_advreg.perturbations import WeightNoise

from .runs import SHORT

EVERYTHING = """
model:
  class_path: RegularizedClassifier
  init_args:
    network: {class_path: ResNet18, init_args: {in_channels: 1, width: 4, drop_path: 0.2, dropout: 0.1}}
    penalties:
      - class_path: JensenShannon
        init_args: {weight: 12, augmentation: {class_path: AugMix, init_args: {shared_by: 4}}}
    weight_perturbation: {class_path: WeightNoise, init_args: {std: 1/10}}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, weight_decay: 5.0e-4}}
    decay_biases: false
data: {class_path: DigitsDataModule, init_args: {loader: resident}}
trainer:
  callbacks:
    - class_path: BatchAugmentation
      init_args:
        augmentations:
          - {class_path: InputNoise, init_args: {std: 8/255}}
          - {class_path: Cutout, init_args: {size: 2, fill: 0}}
          - {class_path: MixUp, init_args: {alpha: 0.2}}
    - {class_path: ActivationNoise, init_args: {std: 0.1, layers: "network.stages.*.norm1", multiplicative: true}}
    - {class_path: AdaptiveGradientClipping, init_args: {clipping: 0.1}}
    - {class_path: WeightAverage, init_args: {decay: null}}
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_everything_together_reads_in_yaml_and_from_the_saved_configuration():
    Path("mine.yaml").write_text(EVERYTHING)
    for config in ("mine.yaml", "runs/config.yaml"):
        cli = main(["fit", "--config", config, *SHORT])
        found = {type(callback): callback for callback in cli.trainer.callbacks}
        augmentations = (InputNoise(std=8 / 255), Cutout(size=2, fill=0), MixUp(alpha=0.2))
        assert found[BatchAugmentation].augmentations == augmentations
        assert found[ActivationNoise].multiplicative and found[AdaptiveGradientClipping].clipping == 0.1
        assert found[WeightAverage].average.decay is None
        assert cli.model.weight_perturbation == WeightNoise(std=0.1)
        assert cli.model.penalties == {"jensenshannon": JensenShannon(12, augmentation=AugMix(shared_by=4))}
        assert [g["weight_decay"] for g in cli.trainer.optimizers[0].param_groups] == [5e-4, 0]
        assert "train/agc/clipped" in cli.trainer.callback_metrics
    cli.trainer.save_checkpoint("model.ckpt")
    again = RegularizedClassifier.load_from_checkpoint("model.ckpt")
    assert again.weight_perturbation == WeightNoise(std=0.1) and again.decay_biases is False


def test_a_callback_joins_those_of_a_configuration():
    flags = ["--trainer.callbacks+=BatchAugmentation", "--trainer.callbacks.augmentations+=InputNoise"]
    cli = main(["fit", "--config", "digits_regularized", *SHORT, *flags])
    assert [c.augmentations for c in cli.trainer.callbacks if isinstance(c, BatchAugmentation)] == [(InputNoise(),)]
