"""Objectives: what training minimises, for classifiers under attack and for GANs."""

from lightning_advreg.objectives.adversarial_mixup import AdversarialMixup
from lightning_advreg.objectives.alp import ALP
from lightning_advreg.objectives.average_over_attacks import AverageOverAttacks
from lightning_advreg.objectives.base import Crafted, Objective, ObjectiveOutput
from lightning_advreg.objectives.free import FreeAT
from lightning_advreg.objectives.gan import LSGAN, WGAN, GANLoss, Hinge, NonSaturating, RpGAN, Saturating
from lightning_advreg.objectives.gat import GAT
from lightning_advreg.objectives.gradalign import GradAlign
from lightning_advreg.objectives.hat import HAT
from lightning_advreg.objectives.liet import LIET
from lightning_advreg.objectives.mart import MART
from lightning_advreg.objectives.nuat import NuAT
from lightning_advreg.objectives.pgd_at import PGDAT
from lightning_advreg.objectives.pgi import PGI
from lightning_advreg.objectives.trades import TRADES

__all__ = [
    "ALP",
    "GAT",
    "HAT",
    "LIET",
    "LSGAN",
    "MART",
    "PGDAT",
    "PGI",
    "TRADES",
    "WGAN",
    "AdversarialMixup",
    "AverageOverAttacks",
    "Crafted",
    "FreeAT",
    "GANLoss",
    "GradAlign",
    "Hinge",
    "NonSaturating",
    "NuAT",
    "Objective",
    "ObjectiveOutput",
    "RpGAN",
    "Saturating",
]
