"""Augmentations of whole training batches: noise, mixtures, holes."""

from lightning_advreg.augmentations.base import Augmentation
from lightning_advreg.augmentations.cutout import Cutout
from lightning_advreg.augmentations.mixing import CutMix, MixUp
from lightning_advreg.augmentations.noise import InputNoise

__all__ = ["Augmentation", "CutMix", "Cutout", "InputNoise", "MixUp"]
