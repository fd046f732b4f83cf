"""Attacks in plain PyTorch: ``x_adv = attack(model, x, y)``."""

from lightning_advreg.attacks.acceleration import Acceleration, SearchModel, search_model
from lightning_advreg.attacks.apgd import APGD
from lightning_advreg.attacks.autoattack import AutoAttack, Version
from lightning_advreg.attacks.base import Attack, BoundedAttack, MinimalAttack, SearchAttack
from lightning_advreg.attacks.corruptions import Corruption, common_corruptions
from lightning_advreg.attacks.cw import CW
from lightning_advreg.attacks.deepfool import DeepFool
from lightning_advreg.attacks.fab import FAB
from lightning_advreg.attacks.fgsm import FGSM
from lightning_advreg.attacks.ledger import describe_attack, fingerprint
from lightning_advreg.attacks.live import live_copy, stand_in, standing_in
from lightning_advreg.attacks.long import LongAttack
from lightning_advreg.attacks.losses import LossName
from lightning_advreg.attacks.model_state import Model, ModelMode, borrowed, device_of, in_mode, logit_variation
from lightning_advreg.attacks.nfgsm import NFGSM
from lightning_advreg.attacks.noise import Noise
from lightning_advreg.attacks.pgd import PGD
from lightning_advreg.attacks.randomness import seeded
from lightning_advreg.attacks.ranks import Alone, ProcessGroup
from lightning_advreg.attacks.schedule import AttackSchedule
from lightning_advreg.attacks.square import Square
from lightning_advreg.attacks.suite import Outcome, attack_in_stages, count_classes, evaluate
from lightning_advreg.attacks.threat import Norm, ball
from lightning_advreg.attacks.worst_of import WorstOf

__all__ = [
    "APGD",
    "CW",
    "FAB",
    "FGSM",
    "NFGSM",
    "PGD",
    "Acceleration",
    "Alone",
    "Attack",
    "AttackSchedule",
    "AutoAttack",
    "BoundedAttack",
    "Corruption",
    "DeepFool",
    "LongAttack",
    "LossName",
    "MinimalAttack",
    "Model",
    "ModelMode",
    "Noise",
    "Norm",
    "Outcome",
    "ProcessGroup",
    "SearchAttack",
    "SearchModel",
    "Square",
    "Version",
    "WorstOf",
    "attack_in_stages",
    "ball",
    "borrowed",
    "common_corruptions",
    "count_classes",
    "describe_attack",
    "device_of",
    "evaluate",
    "fingerprint",
    "in_mode",
    "live_copy",
    "logit_variation",
    "search_model",
    "seeded",
    "stand_in",
    "standing_in",
]
