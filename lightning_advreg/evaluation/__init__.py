"""Robust evaluation in plain PyTorch: several attacks, a curve over budgets, and signs of gradient masking."""

from lightning_advreg.evaluation.curve import CurveSettings
from lightning_advreg.evaluation.flags import Flag
from lightning_advreg.evaluation.masking import masking_flags
from lightning_advreg.evaluation.report import AttackResult, CurveResult, Rate, RobustnessReport
from lightning_advreg.evaluation.robustness import evaluate_robustness

__all__ = [
    "AttackResult",
    "CurveResult",
    "CurveSettings",
    "Flag",
    "Rate",
    "RobustnessReport",
    "evaluate_robustness",
    "masking_flags",
]
