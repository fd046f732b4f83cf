"""Augmentations of whole training batches: noise, mixtures, holes, policies; and of what a discriminator sees."""

from lightning_advreg.augmentations.adaptive import AdaptiveAugment
from lightning_advreg.augmentations.base import Augmentation, DiscriminatorAugmentation
from lightning_advreg.augmentations.cutout import Cutout
from lightning_advreg.augmentations.diff_augment import DiffAugment
from lightning_advreg.augmentations.mixing import CutMix, MixUp
from lightning_advreg.augmentations.noise import InputNoise
from lightning_advreg.augmentations.policies import AugMix, TrivialAugment

__all__ = [
    "AdaptiveAugment",
    "AugMix",
    "Augmentation",
    "CutMix",
    "Cutout",
    "DiffAugment",
    "DiscriminatorAugmentation",
    "InputNoise",
    "MixUp",
    "TrivialAugment",
]
