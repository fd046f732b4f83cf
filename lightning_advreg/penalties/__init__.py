"""Soft regularisation: terms added to the loss."""

from lightning_advreg.penalties.activity import ActivityL1
from lightning_advreg.penalties.base import Penalty, PenaltyValue, WeightPenalty
from lightning_advreg.penalties.consistency import JensenShannon
from lightning_advreg.penalties.critic import CriticPass, CriticPenalty
from lightning_advreg.penalties.critic_consistency import Consistency
from lightning_advreg.penalties.critic_gradients import DRAGAN, R1, R2, GradientPenalty, ZeroCenteredGradientPenalty
from lightning_advreg.penalties.critic_lecam import LeCam
from lightning_advreg.penalties.group_lasso import GroupLasso
from lightning_advreg.penalties.inputs import InputGradient, InputPenalty, Jacobian
from lightning_advreg.penalties.l2sp import L2SP
from lightning_advreg.penalties.orthogonality import Orthogonality
from lightning_advreg.penalties.outputs import ConfidencePenalty
from lightning_advreg.penalties.spectral import SpectralNormPenalty
from lightning_advreg.penalties.training_pass import TrainingPass
from lightning_advreg.penalties.weights import L1, L2, ElasticNet

__all__ = [
    "DRAGAN",
    "L1",
    "L2",
    "L2SP",
    "R1",
    "R2",
    "ActivityL1",
    "ConfidencePenalty",
    "Consistency",
    "CriticPass",
    "CriticPenalty",
    "ElasticNet",
    "GradientPenalty",
    "GroupLasso",
    "InputGradient",
    "InputPenalty",
    "Jacobian",
    "JensenShannon",
    "LeCam",
    "Orthogonality",
    "Penalty",
    "PenaltyValue",
    "SpectralNormPenalty",
    "TrainingPass",
    "WeightPenalty",
    "ZeroCenteredGradientPenalty",
]
