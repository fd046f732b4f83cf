"""The modules and the callbacks of the long run: everything that carries something from step to step."""

from collections.abc import Sequence
from functools import partial

import torch
from lightning.pytorch import Callback

from lightning_advreg import GAN, AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.augmentations import Cutout, MixUp
from lightning_advreg.callbacks import (
    ActivationNoise,
    AdaptiveGradientClipping,
    AdversarialExamples,
    BatchAugmentation,
    Continuation,
    ConvergenceMonitor,
    ExactResume,
    FiniteTraining,
    GANEvaluation,
    GANMonitor,
    GeneratedSamples,
    LatentInterpolation,
    RobustAccuracy,
    SamplesAndNeighbours,
    WeightAverage,
)
from lightning_advreg.constraints import AdaptiveBound, Budget, MaxNorm, WeightClip
from lightning_advreg.metrics import PixelFeatures
from lightning_advreg.modules import LinearOneCycle
from lightning_advreg.networks import MLPDiscriminator, MLPGenerator, MNISTConvNet
from lightning_advreg.penalties import L1, L2, L2SP, R1, SpectralNormPenalty
from lightning_advreg.perturbations import AWP, SAM

PICTURES_EVERY = 5
"""Epochs between two pictures."""
_ATTACK = PGD(eps=0.2, step_size=0.1, steps=3)


def adversarial() -> AdversarialClassifier:
    """Adversarial training with weight perturbation, schedules, soft and hard limits."""
    return AdversarialClassifier(
        MNISTConvNet(image_size=8, width=8, hidden=32, norm="batch", dropout=0.1),
        attack=_ATTACK,
        penalties=[L2(1e-4), SpectralNormPenalty(1e-4)],
        constraints=[MaxNorm(AdaptiveBound(2.0)), Budget(parameters=100_000)],
        weight_perturbation=AWP(),
        eps_warmup_epochs=5,
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        lr_scheduler=LinearOneCycle,
    )


def regularized() -> RegularizedClassifier:
    """Clean training with weight perturbation, soft and hard limits."""
    return RegularizedClassifier(
        MNISTConvNet(image_size=8, width=8, hidden=32, norm="batch", dropout=0.1),
        penalties=[L1(1e-5), L2SP(1e-4)],
        constraints=[MaxNorm(3.0)],
        label_smoothing=0.1,
        weight_perturbation=SAM(),
        optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
        lr_scheduler=LinearOneCycle,
    )


def gan() -> GAN:
    """A small GAN with penalties, limits, noise and an average."""
    return GAN(
        MLPGenerator(latent_dim=16, image_shape=(1, 8, 8), hidden=(64,)),
        MLPDiscriminator(image_shape=(1, 8, 8), hidden=(64,), dropout=0.1),
        discriminator_penalties=[L2(1e-4)],
        discriminator_constraints=[WeightClip(0.5)],
        critic_penalties=[R1(1.0)],
        instance_noise=0.1,
        ema_decay=0.99,
    )


def usual_callbacks(module: str) -> Sequence[Callback]:
    """Give the callbacks that people put beside a module: ``adversarial``, ``regularized`` or ``gan``."""
    if module == "gan":
        return [
            GANMonitor(),
            GANEvaluation(PixelFeatures(), num_samples=128, every_n_epochs=5),
            GeneratedSamples(num_images=16, every_n_epochs=PICTURES_EVERY),
            LatentInterpolation(rows=4, every_n_epochs=PICTURES_EVERY),
            SamplesAndNeighbours(every_n_epochs=PICTURES_EVERY),
            *_default(),
        ]
    augmentation = Cutout(size=2) if module == "adversarial" else MixUp(alpha=0.2)
    return [
        BatchAugmentation([augmentation]),
        ActivationNoise(0.05, "network.*"),
        AdaptiveGradientClipping(0.1),
        WeightAverage(decay=0.99, attacks={"pgd": _ATTACK}, max_samples=64),
        RobustAccuracy({"pgd": _ATTACK}, max_samples=64),
        # 1: so that as many looks are taken on a busy machine
        ConvergenceMonitor(eps=0.2, action="rollback", max_samples=64, max_cost=1),
        AdversarialExamples(_ATTACK, every_n_epochs=PICTURES_EVERY),
        *_default(),
    ]


def _default() -> Sequence[Callback]:
    """Give what the command line adds to every ``fit``, saving more often."""
    return Continuation(["fit"]), FiniteTraining(), ExactResume(every_n_train_steps=100)
