"""From a finished run to weights and card, with progress that outlives a kill."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
import yaml
from torch import nn

from benchmarks.zoo.entries import Entry
from benchmarks.zoo.rendering import render
from benchmarks.zoo.runs import hardware, training_facts
from lightning_advreg.callbacks.weight_average import load_average_
from lightning_advreg.environment import record_start
from lightning_advreg.evaluation import Rate
from lightning_advreg.export import checkpoint_of
from lightning_advreg.files import export_weights, load_network, write_bytes, write_json, write_text
from lightning_advreg.files.weights import network_of, read_weights
from lightning_advreg.metrics import ClassifierFeatures, wilson_interval
from lightning_advreg.modules import GAN
from lightning_advreg.modules.loading import load_module
from lightning_advreg.zoo.cards import read_card
from lightning_advreg.zoo.measuring import clean_rate, images_to_test, robust_rate, sample_figures, settings_of

DATA = {
    "name": "MNIST",
    "module": "MNISTDataModule",
    "train_images": 55_000,
    "source": "LeCun, Cortes and Burges; 5,000 of the 60,000 are kept for validation",
    "licence": "CC BY-SA 3.0, as the documentation of Keras states it; no image is part of the file",
}
IMAGES: Mapping[str, int] = MappingProxyType({"pgd40": 10_000, "autoattack": 1_000})
"""How many test images an attack gets, unless somebody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        data_dir: The folder of the data.
        out: Where ``cards`` and ``weights`` go.
        work: Where progress is saved.
        progress: Show bars.
        images: How many test images an attack gets, by its key.
        samples: How many samples of a generator are judged.
    """

    data_dir: Path
    out: Path
    work: Path
    progress: bool
    images: Mapping[str, int]
    samples: int


def build(entry: Entry, runs: Path, settings: Settings, *, which: Literal["raw", "average"] | None = None) -> Path:
    """Make weights and card of one network.

    Args:
        entry: The network.
        runs: The folder of the runs.
        settings: How to measure.
        which: Weights other than those of the entry.

    Returns:
        The path of the card.

    Raises:
        ValueError: If the run has not come to its end.
    """
    run, work = runs / entry.run, settings.work / entry.name
    chosen = which or entry.weights
    training = training_facts(run, chosen)
    path = _exported(run, work, chosen)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    network = load_network(path)
    config = read_config(run)
    facts: dict[str, Any] = {
        "name": entry.name,
        "summary": entry.summary,
        "kind": "classifier" if entry.extractor is None else "generator",
        "network": type(network).__name__,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "licence": "Apache-2.0",
        "data": {**DATA, "train_images": config["data"]["init_args"].get("train_size") or DATA["train_images"]},
        "weights": {"file": f"{entry.name}.safetensors", "sha256": digest, "bytes": path.stat().st_size},
        "training": training,
        "evaluation": _environment(entry, settings, which),
    }
    if entry.extractor is None:
        facts["results"] = _accuracies(entry, network, settings, work, digest)
    else:
        facts["results"] = _samples(entry, network, settings)
    card = settings.out / "cards" / f"{entry.name}.md"
    write_bytes(settings.out / "weights" / f"{entry.name}.safetensors", path.read_bytes())
    write_text(card, render(entry, facts))
    print(f"{entry.name}: {card}", flush=True)
    return card


def render_again(entry: Entry, out: Path) -> None:
    """Write a card again from its own front matter, if there is one."""
    path = out / "cards" / f"{entry.name}.md"
    if path.is_file():
        write_text(path, render(entry, {**read_card(path).facts, "summary": entry.summary}))


def read_config(run: Path) -> dict[str, Any]:
    """Read what a run was configured with."""
    found: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    return found


def _exported(run: Path, work: Path, which: str) -> Path:
    checkpoint = checkpoint_of(run)
    module = load_module(checkpoint)
    # a GAN is exported as its averaged generator
    if isinstance(module, GAN):
        module = module if which == "average" else module.generator
    elif which == "average":
        load_average_(module, checkpoint)
    path = work / "weights.safetensors"
    if path.is_file():
        stored, new = read_weights(path)[0], network_of(module).state_dict()
        if stored.keys() == new.keys() and all(torch.equal(stored[name], new[name]) for name in new):
            # the same numbers in another order of names would be another file
            return path
    return export_weights(module, path, config=(run / "config.yaml").read_text(encoding="utf-8"))


def _accuracies(entry: Entry, network: nn.Module, settings: Settings, work: Path, digest: str) -> dict[str, Any]:
    x, y = images_to_test(DATA["module"], settings.data_dir)
    kept = work / f"figures-{digest[:8]}.json"
    known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    found: dict[str, Any] = {}
    for key, (title, attack) in entry.measured().items():
        count = min(settings.images.get("autoattack" if key.endswith("_same") else key, len(x)), len(x))
        told = {} if attack is None else settings_of(attack)
        before = known.get(key)
        if before is not None and before["images"] == count and before.get("attack", {}) == told:
            found[key] = before
        elif attack is None:
            found[key] = {"title": title, **_plain(clean_rate(network, x[:count], y[:count]))}
        else:
            folder = work / f"{key}-{digest[:8]}-{count}"
            rate, stages = robust_rate(
                network, x[:count], y[:count], attack, progress=settings.progress, checkpoint=folder
            )
            parts = {"stages": {name: _plain(each) for name, each in stages.items()}} if len(stages) > 1 else {}
            found[key] = {"title": title, **_plain(rate), "attack": told, **parts}
        write_json(kept, {**known, **found})
        print(f"{entry.name}: {title}: {100 * found[key]['accuracy']:.2f} % of {count}", flush=True)
    return found


def _plain(rate: Rate) -> dict[str, Any]:
    low, high = rate.interval
    return {"accuracy": rate.accuracy, "interval": [round(low, 5), round(high, 5)], "images": rate.images}


def _samples(entry: Entry, network: nn.Module, settings: Settings) -> dict[str, Any]:
    x, y = images_to_test(DATA["module"], settings.data_dir)
    path = settings.out / "weights" / f"{entry.extractor}.safetensors"
    if not path.is_file():
        raise ValueError(f"{entry.name} is judged by {entry.extractor}, which is not in {settings.out}; make it first.")
    extractor = ClassifierFeatures(load_network(path))
    found = sample_figures(network, extractor, x, y, num_samples=settings.samples, seed=0, progress=settings.progress)
    figures: dict[str, Any] = {name: {"value": float(f"{value:.6g}")} for name, value in found.items()}
    right = round(found["class_accuracy"] * settings.samples)
    figures["class_accuracy"]["interval"] = [round(bound, 5) for bound in wilson_interval(right, settings.samples)]
    print(f"{entry.name}: {', '.join(f'{name} {value:.4g}' for name, value in found.items())}", flush=True)
    return {
        "extractor": {"zoo": entry.extractor, "name": extractor.name},
        "samples": settings.samples,
        "real": len(x),
        "seed": 0,
        "figures": figures,
    }


def _environment(entry: Entry, settings: Settings, which: str | None) -> dict[str, Any]:
    """Note where and with what the figures are measured."""
    work = settings.work / entry.name
    record_start(work, command=[], device=torch.device("cpu"), processes=1)
    start = json.loads((work / "environment.json").read_text(encoding="utf-8"))["starts"][0]
    flags = [] if which is None else [f"--weights {which}"]
    if entry.extractor is None:
        names = {"pgd40": "--pgd-images", "autoattack": "--autoattack-images"}
        flags += [f"{names[key]} {count}" for key, count in settings.images.items() if count != IMAGES[key]]
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "command": "python -m benchmarks.zoo --runs runs --data-dir data --only " + " ".join([entry.name, *flags]),
        "hardware": hardware(start),
        "versions": start["versions"],
    }
