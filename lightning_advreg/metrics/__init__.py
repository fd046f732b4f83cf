"""Metrics: subclasses of ``torchmetrics.Metric``, summed over processes."""

from lightning_advreg.metrics.accuracy import Accuracy

__all__ = ["Accuracy"]
