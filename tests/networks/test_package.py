import subprocess
import sys

import pytest
import torch
from jsonargparse import ArgumentParser

from lightning_advreg import networks
from lightning_advreg.networks import Discriminator, Generator, Network

CONCRETE = [
    cls
    for cls in (getattr(networks, name) for name in networks.__all__)
    if issubclass(cls, Network) and cls not in (Network, Generator, Discriminator)
]


def test_import_stays_light():
    code = (
        "import sys, lightning_advreg.networks; "
        "print([m for m in ('timm', 'lightning', 'wandb', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


SMALL = {
    "MNISTConvNet": {"width": 2, "mean": [0.1], "std": [0.3]},
    "ResNet18": {"width": 2, "norm": "group", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]},
    "PreActResNet18": {"width": 2, "activation": "silu"},
    "WideResNet": {"depth": 10, "width": 1, "dropout": 0.2},
    "TimmNetwork": {"name": "resnet10t", "model_kwargs": {"act_layer": "silu"}},
    "MLPGenerator": {"latent_dim": 4, "image_shape": [1, 8, 8], "hidden": [8]},
    "MLPDiscriminator": {"image_shape": [1, 8, 8], "hidden": [8, 4]},
    "DCGANGenerator": {"latent_dim": 4, "image_shape": [1, 8, 8], "width": 2},
    "DCGANDiscriminator": {"image_shape": [1, 8, 8], "width": 2, "norm": "none"},
    "SNGANGenerator": {"latent_dim": 4, "image_shape": [1, 16, 16], "width": 8, "num_classes": 3},
    "SNGANDiscriminator": {"width": 8, "num_classes": 3, "conditioning": "auxiliary"},
    "SNGANResNetGenerator": {"latent_dim": 4, "width": 4, "num_classes": 3, "conditioning": "concat"},
    "SNGANResNetDiscriminator": {"width": 4, "num_classes": 3, "minibatch_std": True},
}


# renamed in jsonargparse 4.49; the old name works in all versions we allow
@pytest.mark.filterwarnings(r"ignore:\s*(By default only one|.*instantiate_classes)")
@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
def test_every_network_is_built_from_yaml_and_rebuilt_from_its_arguments(cls):
    parser = ArgumentParser()
    parser.add_subclass_arguments(Network, "network")
    init_args = SMALL[cls.__name__]
    config = {"network": {"class_path": f"lightning_advreg.networks.{cls.__name__}", "init_args": init_args}}
    network = parser.instantiate_classes(parser.parse_object(config)).network
    assert type(network) is cls
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in network.init_args.items() if k in init_args} == (
        init_args
    )
    rebuilt = cls(**network.init_args)
    rebuilt.load_state_dict(network.state_dict())
    x = torch.rand(2, 4) if issubclass(cls, Generator) else torch.rand(2, *_image_shape(network))
    y = [] if getattr(network, "num_classes", None) is None or "GAN" not in cls.__name__ else [torch.tensor([0, 2])]
    torch.testing.assert_close(rebuilt.eval()(x, *y), network.eval()(x, *y), rtol=0, atol=0)


def _image_shape(network):
    return getattr(network, "image_shape", (3, 32, 32))
