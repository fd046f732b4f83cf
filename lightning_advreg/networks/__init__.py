"""Networks: classifiers from [0, 1] pixels to logits, and GAN networks from noise to [0, 1] pixels and back.

Pixels stay in [0, 1] everywhere; normalisation is the first layer of each classifier. Every constructor argument is a
primitive, so that networks are built from YAML and rebuilt from a checkpoint.
"""

from lightning_advreg.networks.base import Network, Normalize
from lightning_advreg.networks.gan_base import Discriminator, Generator
from lightning_advreg.networks.gan_conditioning import ConditionalBatchNorm1d, ConditionalBatchNorm2d
from lightning_advreg.networks.gan_dcgan import DCGANDiscriminator, DCGANGenerator
from lightning_advreg.networks.gan_mlp import MLPDiscriminator, MLPGenerator
from lightning_advreg.networks.gan_sngan import SNGANDiscriminator, SNGANGenerator
from lightning_advreg.networks.gan_sngan_resnet import SNGANResNetDiscriminator, SNGANResNetGenerator
from lightning_advreg.networks.minibatch_std import MinibatchStandardDeviation
from lightning_advreg.networks.mnist import MNISTConvNet
from lightning_advreg.networks.preact_resnet import PreActResNet18
from lightning_advreg.networks.resnet import ResNet18
from lightning_advreg.networks.timm_network import TimmNetwork
from lightning_advreg.networks.wide_resnet import WideResNet

__all__ = [
    "ConditionalBatchNorm1d",
    "ConditionalBatchNorm2d",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Discriminator",
    "Generator",
    "MLPDiscriminator",
    "MLPGenerator",
    "MNISTConvNet",
    "MinibatchStandardDeviation",
    "Network",
    "Normalize",
    "PreActResNet18",
    "ResNet18",
    "SNGANDiscriminator",
    "SNGANGenerator",
    "SNGANResNetDiscriminator",
    "SNGANResNetGenerator",
    "TimmNetwork",
    "WideResNet",
]
