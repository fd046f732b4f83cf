"""Networks: classifiers from [0, 1] pixels to logits, and GAN networks from noise to [0, 1] pixels and back.

Pixels stay in [0, 1] everywhere; normalisation is the first layer of each classifier. Every constructor argument is a
primitive, so that networks are built from YAML and rebuilt from a checkpoint.
"""

from lightning_advreg.networks.base import Network, Normalize
from lightning_advreg.networks.gan_base import Discriminator, Generator
from lightning_advreg.networks.gan_dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_advreg.networks.gan_mlp import MLPDiscriminator, MLPGenerator
from lightning_advreg.networks.mnist import MNISTConvNet
from lightning_advreg.networks.preact_resnet import PreActResNet18
from lightning_advreg.networks.resnet import ResNet18
from lightning_advreg.networks.timm_network import TimmNetwork
from lightning_advreg.networks.wide_resnet import WideResNet

__all__ = [
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Discriminator",
    "Generator",
    "MLPDiscriminator",
    "MLPGenerator",
    "MNISTConvNet",
    "Network",
    "Normalize",
    "PreActResNet18",
    "ResNet18",
    "TimmNetwork",
    "WideResNet",
]
