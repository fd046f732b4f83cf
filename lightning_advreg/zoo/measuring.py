"""The figures of a card, measured: accuracy without and under attack, and how samples compare with real images."""

import dataclasses
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lightning_advreg import attacks
from lightning_advreg.attacks import Attack, AutoAttack, describe_attack
from lightning_advreg.attacks.autoattack import Version
from lightning_advreg.evaluation import Rate, evaluate_robustness
from lightning_advreg.metrics import (
    ClassAccuracy,
    ClassifierFeatures,
    FrechetDistance,
    GenerationMetric,
    KernelDistance,
    ModeCount,
    PrecisionRecallDensityCoverage,
)

_BATCH = 500


def images_to_test(module: str, data_dir: str | os.PathLike[str], *, download: bool = False) -> tuple[Tensor, Tensor]:
    """Read the official test images of a data set.

    Args:
        module: The name of its DataModule, such as ``MNISTDataModule``, as cards give it.
        data_dir: The folder of the data.
        download: Fetch what is missing.

    Returns:
        Images ``(N, C, H, W)``, float32 in [0, 1], and labels ``(N,)``.

    Raises:
        FileNotFoundError: If files are missing.
    """
    data = getattr(importlib.import_module("lightning_advreg.data"), module)(data_dir, download=download)
    if download:
        data.prepare_data()
    images, labels = data.read(train=False)
    return images.float() / 255, labels


def clean_rate(network: nn.Module, x: Tensor, y: Tensor) -> Rate:
    """Count the images that a network is right about.

    Args:
        network: From images to logits.
        x: Images ``(N, C, H, W)`` in [0, 1].
        y: Labels ``(N,)``.

    Example:
        >>> clean_rate(nn.Flatten(), torch.tensor([[[[0.9, 0.1]]], [[[0.2, 0.8]]]]), torch.tensor([0, 0])).accuracy
        0.5
    """
    with torch.no_grad():
        right = [
            int((network(x[i : i + _BATCH]).argmax(1) == y[i : i + _BATCH]).sum()) for i in range(0, len(x), _BATCH)
        ]
    return Rate(sum(right), len(x))


def robust_rate(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    name: str = "attack",
) -> tuple[Rate, dict[str, Rate]]:
    """Count the images that an attack leaves.

    Args:
        network: From images to logits.
        x: Images ``(N, C, H, W)`` in [0, 1].
        y: Labels ``(N,)``.
        attack: The attack.
        progress: Show a bar.
        checkpoint: A folder where progress is saved, and from which the same call continues.
        name: What the bar calls the attack.

    Returns:
        What withstood the attack, and what withstood each of its stages and those before, by name.
    """
    folder = None if checkpoint is None else Path(checkpoint)
    report = evaluate_robustness(
        network, x, y, {name: attack}, masking=False, progress=progress, checkpoint=folder, batch_size=_BATCH
    )
    found = report.attacks[name]
    return found.robust, dict(found.stages)


def attack_of(settings: Mapping[str, Any]) -> Attack:
    """Make an attack from the settings on a card.

    Args:
        settings: What :func:`settings_of` gave.

    Example:
        >>> attack_of({"attack": "PGD", "eps": 0.3, "step_size": 0.01, "steps": 40}).radius
        0.3
    """
    arguments = dict(settings)
    made: Attack = getattr(attacks, str(arguments.pop("attack")))(**arguments)
    return made


def settings_of(attack: Attack) -> dict[str, Any]:
    """Give class and settings of an attack, as plain values for a card."""
    return dict(describe_attack(attack))


def quicker(attack: Attack, version: Version) -> Attack:
    """Give AutoAttack in another version; other attacks as they are."""
    return dataclasses.replace(attack, version=version) if isinstance(attack, AutoAttack) else attack


def sample_figures(
    generator: nn.Module,
    extractor: ClassifierFeatures,
    x: Tensor,
    y: Tensor,
    *,
    num_samples: int,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, float]:
    """Compare samples of a generator with real images, in the features of a classifier.

    A conditional generator is asked for its classes in turn. Distances in the features of a classifier are not FID.

    Args:
        generator: From noise ``(N, latent_dim)``, and labels if it has ``num_classes``, to images.
        extractor: What gives features.
        x: Real images ``(N, C, H, W)`` in [0, 1].
        y: Their labels ``(N,)``.
        num_samples: How many samples to draw.
        seed: Of the noise.
        progress: Show a bar.

    Returns:
        Figures by name: distances, precision, recall, density, coverage, modes, and, of a conditional generator, the
        share of samples that the classifier gives the class they were asked for.
    """
    made: Any = generator
    classes: int | None = made.num_classes
    metrics: list[GenerationMetric] = [
        FrechetDistance(), KernelDistance(), PrecisionRecallDensityCoverage(), ModeCount(),
    ]  # fmt: skip
    if classes is not None:
        metrics.append(ClassAccuracy())
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad(), tqdm(total=len(x) + num_samples, desc="images", disable=not progress, leave=False) as bar:
        for first in range(0, len(x), _BATCH):
            seen = extractor(x[first : first + _BATCH], y[first : first + _BATCH])
            for metric in metrics:
                if "real" in metric.origins:
                    metric.update(seen, "real")
            bar.update(len(seen.features))
        for first in range(0, num_samples, _BATCH):
            count = min(_BATCH, num_samples - first)
            z = torch.randn(count, made.latent_dim, generator=noise)
            labels = None if classes is None else torch.arange(first, first + count) % classes
            seen = extractor(made(z) if labels is None else made(z, labels), labels)
            for metric in metrics:
                metric.update(seen, "generated")
            bar.update(count)
        return {name: float(value) for metric in metrics for name, value in metric.figures().items()}
