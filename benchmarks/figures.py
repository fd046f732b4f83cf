"""The pictures of docs/concepts: training that goes wrong, from docs/results, and weights under soft and hard limits.

    python -m benchmarks.figures [--out docs/images/concepts]

The curves are those of the files that ``benchmarks.convergence`` left. The histograms come from a run of a few seconds:
a layer of 64 units on 500 of the embedded digits, once for each limit.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_advreg.constraints import Projection, WeightClip
from lightning_advreg.penalties import L1, L2, WeightPenalty

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "convergence"
CLIP = 0.1
# blue, orange and green that people with any colour vision tell apart (Okabe & Ito)
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"


def catastrophic_overfitting() -> Figure:
    """Draw accuracy under one step and under ten, watched only and repaired."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axes, name, title in zip(
        panels, ("collapse", "repaired"), ("watched only", "rolled back, N-FGSM"), strict=True
    ):
        epochs = _epochs(name)
        _curve(axes, epochs, "monitor/fgsm_acc", "under FGSM", ORANGE, "s")
        _curve(axes, epochs, "monitor/pgd_acc", "under PGD-10", BLUE, "o")
        _alarm(axes, epochs)
        axes.set(title=title, xlabel="epoch", ylim=(0, 100))
    panels[0].set_ylabel("accuracy on validation images, %")
    panels[0].legend(loc="lower left")
    return figure


def robust_overfitting() -> Figure:
    """Draw accuracy under PGD-10 on training and on validation images."""
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    epochs = _epochs("robust-0")
    _curve(axes, epochs, "monitor/train_pgd_acc", "training images", ORANGE, "s")
    _curve(axes, epochs, "monitor/pgd_acc", "validation images", BLUE, "o")
    _alarm(axes, epochs)
    axes.set(xlabel="epoch", ylabel="accuracy under PGD-10, %", ylim=(0, 62))
    axes.legend(loc="upper left")
    return figure


def soft_and_hard() -> Figure:
    """Draw the weights of a layer without a limit, under two penalties and under a bound."""
    limits: dict[str, WeightPenalty | Projection | None] = {
        "no limit": None,
        "soft: L2, 0.03": L2(0.03),
        "soft: L1, 0.001": L1(0.001),
        f"hard: WeightClip, {CLIP}": WeightClip(CLIP),
    }
    figure, panels = plt.subplots(1, len(limits), figsize=(11, 3), sharex=True, sharey=True, layout="constrained")
    for axes, (title, limit) in zip(panels, limits.items(), strict=True):
        axes.hist(trained_weights(limit).numpy(), bins=81, range=(-0.5, 0.5), color=BLUE)
        axes.set(title=title, xlabel="weight", yscale="log")
        if isinstance(limit, WeightClip):
            axes.axvline(-CLIP, color=ORANGE, linestyle="--")
            axes.axvline(CLIP, color=ORANGE, linestyle="--", label="bound")
            axes.legend(loc="upper right")
    panels[0].set_ylabel("number of weights")
    return figure


def trained_weights(limit: WeightPenalty | Projection | None, steps: int = 300) -> Tensor:
    """Train a small network under one limit, and give the weights of its first layer as one row."""
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:500] / 16, dtype=torch.float32), torch.tensor(labels[:500])
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = cross_entropy(network(x), y)
        if isinstance(limit, WeightPenalty):
            loss = loss + limit(network)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if isinstance(limit, Projection):
            limit.project_(network)
    first = network[0]
    assert isinstance(first, nn.Linear)
    return first.weight.detach().flatten()


def _epochs(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["epochs"]
    return found


def _curve(axes: Axes, epochs: list[dict[str, Any]], key: str, label: str, colour: str, marker: str) -> None:
    values = [100 * one[key] for one in epochs]
    axes.plot([one["epoch"] for one in epochs], values, color=colour, marker=marker, markersize=4, label=label)
    axes.grid(alpha=0.3)


def _alarm(axes: Axes, epochs: list[dict[str, Any]]) -> None:
    first = next(one["epoch"] for one in epochs if one["monitor/alarms"] > 0)
    axes.axvline(first, color=GREEN, linestyle="--", label="alarm")


def main(arguments: list[str] | None = None) -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/concepts"), help="the folder of the pictures")
    out = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    for draw in (catastrophic_overfitting, robust_overfitting, soft_and_hard):
        path = out / f"{draw.__name__}.png"
        figure = draw()
        figure.savefig(path, dpi=110, metadata={"Software": None})
        plt.close(figure)
        print(path)


if __name__ == "__main__":
    main()
