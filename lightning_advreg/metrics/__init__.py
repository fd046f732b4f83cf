"""Metrics: subclasses of ``torchmetrics.Metric``, summed over processes."""

from lightning_advreg.metrics.accuracy import Accuracy
from lightning_advreg.metrics.classwise import ClasswiseAccuracy
from lightning_advreg.metrics.curve import AccuracyCurve
from lightning_advreg.metrics.intervals import wilson_interval
from lightning_advreg.metrics.perturbation import PerturbationSize
from lightning_advreg.metrics.under_attack import AccuracyUnderAttack
from lightning_advreg.metrics.worst_case import WorstCaseAccuracy

__all__ = [
    "Accuracy",
    "AccuracyCurve",
    "AccuracyUnderAttack",
    "ClasswiseAccuracy",
    "PerturbationSize",
    "WorstCaseAccuracy",
    "wilson_interval",
]
