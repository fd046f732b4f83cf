"""Objectives: what training minimises, for classifiers under attack and for GANs."""

from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.objectives.gan import LSGAN, WGAN, GANLoss, Hinge, NonSaturating
from lightning_advreg.objectives.pgd_at import PGDAT

__all__ = ["LSGAN", "PGDAT", "WGAN", "Crafted", "GANLoss", "Hinge", "NonSaturating", "Objective", "ObjectiveOutput"]
