"""Perturbations of the weights: climb to where the loss is higher, differentiate there, come back."""

from lightning_advreg.perturbations.base import Climb, WeightPerturbation

__all__ = ["Climb", "WeightPerturbation"]
