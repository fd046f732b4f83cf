"""Perturbations of the weights: climb to where the loss is higher or go anywhere, differentiate there, come back."""

from lightning_advreg.perturbations.awp import AWP
from lightning_advreg.perturbations.base import Climb, WeightPerturbation
from lightning_advreg.perturbations.noise import WeightNoise
from lightning_advreg.perturbations.sam import ASAM, SAM

__all__ = ["ASAM", "AWP", "SAM", "Climb", "WeightNoise", "WeightPerturbation"]
