"""Networks of a GAN, chosen and set from the command line."""

import pytest
import torch
import yaml
from torch import nn
from torch.nn.utils import parametrize

from lightning_advreg.cli import main
from lightning_advreg.networks import MinibatchStandardDeviation

from .runs import refused, run

GAN = ["fit", "--model", "GAN", "--data", "DigitsDataModule"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_conditional_pair_is_named_and_set_by_flags(capsys):
    pair = [
        *("--model.generator", "SNGANResNetGenerator", "--model.generator.num_classes", "10"),
        *("--model.generator.width", "8", "--model.generator.conditioning", "concat"),
        *("--model.discriminator", "SNGANDiscriminator", "--model.discriminator.num_classes", "10"),
        *("--model.discriminator.minibatch_std", "true", "--model.discriminator.conditioning", "auxiliary"),
    ]
    with pytest.raises(SystemExit) as caught:
        main([*GAN, *pair, "--print_config"])
    assert caught.value.code == 0
    settings = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    generator, discriminator = settings["generator"], settings["discriminator"]
    assert generator["class_path"] == "lightning_advreg.networks.SNGANResNetGenerator"
    chosen = {"num_classes": 10, "conditioning": "concat", "width": 8, "norm": "batch", "latent_dim": 128}
    assert {name: generator["init_args"][name] for name in chosen} == chosen
    assert discriminator["class_path"] == "lightning_advreg.networks.SNGANDiscriminator"
    chosen = {"num_classes": 10, "conditioning": "auxiliary", "minibatch_std": True, "spectral_norm": True}
    assert {name: discriminator["init_args"][name] for name in chosen} == chosen


def test_what_regularises_a_discriminator_is_set_by_flags_and_trained():
    settings = {"norm": "layer", "minibatch_std": "true", "spectral_norm": "true", "dropout": "0.25"}
    flags = [f"--model.init_args.discriminator.init_args.{name}={value}" for name, value in settings.items()]
    discriminator = run("fit", "digits_gan", *flags).model.discriminator
    kinds = [type(m) for m in discriminator.modules()]
    assert nn.LayerNorm in kinds and MinibatchStandardDeviation in kinds
    layers = [m for m in discriminator.modules() if parametrize.is_parametrized(m)]
    assert len(layers) == 3
    assert torch.cat([p.flatten() for p in discriminator.parameters()]).isfinite().all()


def test_an_unknown_conditioning_is_refused_with_the_choices(capsys):
    refusal = refused(capsys, *GAN, "--model.generator", "MLPGenerator", "--model.generator.conditioning", "projection")
    assert "conditioning" in refusal and "concat" in refusal and "batch_norm" in refusal
