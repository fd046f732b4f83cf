"""Hard regularisation: limits that hold exactly."""

from lightning_advreg.constraints.base import Constraint
from lightning_advreg.constraints.budget import Budget
from lightning_advreg.constraints.projections import MaxNorm, WeightClip

__all__ = ["Budget", "Constraint", "MaxNorm", "WeightClip"]
