"""Hard regularisation: limits that hold exactly."""

from lightning_advreg.constraints.base import Constraint, Projected, Projection
from lightning_advreg.constraints.bounds import AdaptiveBound
from lightning_advreg.constraints.budget import Budget
from lightning_advreg.constraints.lipschitz import LipschitzReport, lipschitz_bound
from lightning_advreg.constraints.orthogonal import Orthogonal, Parseval
from lightning_advreg.constraints.projections import MaxNorm, NonNegative, WeightClip
from lightning_advreg.constraints.pruning import CubicSparsity, MagnitudePruning
from lightning_advreg.constraints.spectral import SpectralProjection

__all__ = [
    "AdaptiveBound",
    "Budget",
    "Constraint",
    "CubicSparsity",
    "LipschitzReport",
    "MagnitudePruning",
    "MaxNorm",
    "NonNegative",
    "Orthogonal",
    "Parseval",
    "Projected",
    "Projection",
    "SpectralProjection",
    "WeightClip",
    "lipschitz_bound",
]
