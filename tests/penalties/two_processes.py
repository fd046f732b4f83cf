"""What test_ddp.py runs in two processes."""

from functools import partial

import torch

from lightning_advreg import AdversarialClassifier, RegularizedClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.penalties import (
    L1,
    L2,
    L2SP,
    ActivityL1,
    ConfidencePenalty,
    ElasticNet,
    GroupLasso,
    InputGradient,
    Jacobian,
    Orthogonality,
    SpectralNormPenalty,
)
from lightning_advreg.schedules import Ramp
from tests.modules.parts import conv, plain_gan, trainer
from tests.modules.two_processes import batches

KINDS = ["regularized", "adversarial", "gan"]
SGD = partial(torch.optim.SGD, lr=0.1)


def build(kind):
    """Give a module without chance, but for the GAN's noise, and with every penalty."""
    torch.manual_seed(1)
    on_weights = [
        L1(1e-3), L2(Ramp(epochs=2, end=0.1)), ElasticNet(1e-3, 1e-2), GroupLasso(1e-3), Orthogonality(1e-2),
        SpectralNormPenalty(1e-2), L2SP(0.5),
    ]  # fmt: skip
    if kind == "gan":
        both = [*on_weights, ActivityL1(0.1, layers="*")]
        chosen = {"generator_penalties": both, "discriminator_penalties": both}
        return plain_gan(**chosen, generator_optimizer=SGD, discriminator_optimizer=SGD)
    penalties = [
        *on_weights, InputGradient(0.1), Jacobian(0.01, projections=None), ConfidencePenalty(0.1),
        ActivityL1(0.1, layers="features.*"),
    ]  # fmt: skip
    arguments = {"network": conv(norm="group"), "penalties": penalties, "optimizer": SGD}
    if kind == "regularized":
        return RegularizedClassifier(**arguments)
    return AdversarialClassifier(**arguments, attack=PGD(eps=0.2, step_size=0.1, steps=2, random_start=False))


def fit(kind, rank=0, processes=1, **settings):
    model = build(kind)
    settings = {"use_distributed_sampler": False, "precision": "64-true", "max_epochs": 2, **settings}
    trainer(**settings).fit(model, batches(16, rank, processes))
    return dict(model.state_dict())
