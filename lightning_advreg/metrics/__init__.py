"""Metrics: subclasses of ``torchmetrics.Metric``, summed over processes."""

from lightning_advreg.metrics.accuracy import Accuracy
from lightning_advreg.metrics.classwise import ClasswiseAccuracy
from lightning_advreg.metrics.curve import AccuracyCurve
from lightning_advreg.metrics.gan_base import GenerationMetric
from lightning_advreg.metrics.gan_classifier_features import ClassifierFeatures
from lightning_advreg.metrics.gan_classwise import ClasswiseFrechetDistance
from lightning_advreg.metrics.gan_features import FeatureExtractor, Features, PixelFeatures
from lightning_advreg.metrics.gan_frechet import FrechetDistance, frechet_distance
from lightning_advreg.metrics.gan_inception import InceptionFeatures
from lightning_advreg.metrics.gan_interpolation import InterpolationSmoothness, slerp
from lightning_advreg.metrics.gan_kernel import KernelDistance
from lightning_advreg.metrics.gan_manifold import PrecisionRecallDensityCoverage
from lightning_advreg.metrics.gan_modes import ClassAccuracy, ModeCount
from lightning_advreg.metrics.gan_neighbours import NearestNeighbours
from lightning_advreg.metrics.gan_score import InceptionScore
from lightning_advreg.metrics.gan_stacked import StackedFeatures
from lightning_advreg.metrics.intervals import wilson_interval
from lightning_advreg.metrics.mean import MeanOverImages
from lightning_advreg.metrics.perturbation import PerturbationSize
from lightning_advreg.metrics.under_attack import AccuracyUnderAttack
from lightning_advreg.metrics.worst_case import WorstCaseAccuracy

__all__ = [
    "Accuracy",
    "AccuracyCurve",
    "AccuracyUnderAttack",
    "ClassAccuracy",
    "ClassifierFeatures",
    "ClasswiseAccuracy",
    "ClasswiseFrechetDistance",
    "FeatureExtractor",
    "Features",
    "FrechetDistance",
    "GenerationMetric",
    "InceptionFeatures",
    "InceptionScore",
    "InterpolationSmoothness",
    "KernelDistance",
    "MeanOverImages",
    "ModeCount",
    "NearestNeighbours",
    "PerturbationSize",
    "PixelFeatures",
    "PrecisionRecallDensityCoverage",
    "StackedFeatures",
    "WorstCaseAccuracy",
    "frechet_distance",
    "slerp",
    "wilson_interval",
]
