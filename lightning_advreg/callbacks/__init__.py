"""Callbacks: evaluation under attack and pictures, for any LightningModule."""

from lightning_advreg.callbacks.image_log import log_image
from lightning_advreg.callbacks.pictures import AdversarialExamples, GeneratedSamples
from lightning_advreg.callbacks.robust_accuracy import RobustAccuracy
from lightning_advreg.callbacks.robust_evaluation import RobustEvaluation

__all__ = ["AdversarialExamples", "GeneratedSamples", "RobustAccuracy", "RobustEvaluation", "log_image"]
