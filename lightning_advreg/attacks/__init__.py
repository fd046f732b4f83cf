"""Attacks in plain PyTorch: ``x_adv = attack(model, x, y)``."""

from lightning_advreg.attacks.base import Attack, GradientAttack
from lightning_advreg.attacks.fgsm import FGSM
from lightning_advreg.attacks.losses import LossName
from lightning_advreg.attacks.model_state import Model, ModelMode, borrowed
from lightning_advreg.attacks.pgd import PGD
from lightning_advreg.attacks.randomness import seeded
from lightning_advreg.attacks.threat import Norm, ball

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "GradientAttack",
    "LossName",
    "Model",
    "ModelMode",
    "Norm",
    "ball",
    "borrowed",
    "seeded",
]
