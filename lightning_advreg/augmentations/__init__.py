"""Augmentations of whole training batches: noise, mixtures, holes, policies."""

from lightning_advreg.augmentations.base import Augmentation
from lightning_advreg.augmentations.cutout import Cutout
from lightning_advreg.augmentations.mixing import CutMix, MixUp
from lightning_advreg.augmentations.noise import InputNoise
from lightning_advreg.augmentations.policies import AugMix, TrivialAugment

__all__ = ["AugMix", "Augmentation", "CutMix", "Cutout", "InputNoise", "MixUp", "TrivialAugment"]
