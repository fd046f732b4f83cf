"""Callbacks: evaluation under attack, adversarial training, convergence, averages and pictures, for any module."""

from lightning_advreg.callbacks.activation_noise import ActivationNoise
from lightning_advreg.callbacks.adaptive_gradient_clipping import AdaptiveGradientClipping, clip_adaptively_
from lightning_advreg.callbacks.adversarial_training import AdversarialTraining
from lightning_advreg.callbacks.batch_augmentation import BatchAugmentation
from lightning_advreg.callbacks.continuation import Continuation
from lightning_advreg.callbacks.convergence_monitor import ConvergenceMonitor
from lightning_advreg.callbacks.dropout_ablation import DropoutAblation
from lightning_advreg.callbacks.exact_resume import ExactResume
from lightning_advreg.callbacks.finite_training import FiniteTraining
from lightning_advreg.callbacks.gan_evaluation import GANEvaluation
from lightning_advreg.callbacks.gan_monitor import GANMonitor
from lightning_advreg.callbacks.image_log import log_image
from lightning_advreg.callbacks.latent_pictures import LatentInterpolation, SamplesByClass
from lightning_advreg.callbacks.multi_gpu_scaling import MultiGPUScaling
from lightning_advreg.callbacks.norm_ablation import NormAblation
from lightning_advreg.callbacks.pictures import AdversarialExamples, GeneratedSamples
from lightning_advreg.callbacks.prediction_file import PredictionFile
from lightning_advreg.callbacks.robust_accuracy import RobustAccuracy
from lightning_advreg.callbacks.robust_evaluation import RobustEvaluation
from lightning_advreg.callbacks.sample_file import SampleFile
from lightning_advreg.callbacks.samples_and_neighbours import SamplesAndNeighbours
from lightning_advreg.callbacks.table_log import log_curve, log_table
from lightning_advreg.callbacks.weight_average import WeightAverage, load_average_

__all__ = [
    "ActivationNoise",
    "AdaptiveGradientClipping",
    "AdversarialExamples",
    "AdversarialTraining",
    "BatchAugmentation",
    "Continuation",
    "ConvergenceMonitor",
    "DropoutAblation",
    "ExactResume",
    "FiniteTraining",
    "GANEvaluation",
    "GANMonitor",
    "GeneratedSamples",
    "LatentInterpolation",
    "MultiGPUScaling",
    "NormAblation",
    "PredictionFile",
    "RobustAccuracy",
    "RobustEvaluation",
    "SampleFile",
    "SamplesAndNeighbours",
    "SamplesByClass",
    "WeightAverage",
    "clip_adaptively_",
    "load_average_",
    "log_curve",
    "log_image",
    "log_table",
]
