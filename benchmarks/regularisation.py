"""What each regulariser adds to a bare training step of ResNet-18 on CIFAR-sized images.

The bare step is a forward pass, cross-entropy, a backward pass and SGD with momentum, in float32. Two ratios are given,
medians over rounds in which bare step and regularisers take turns, so that a busy machine slows them alike:

- ``step / bare``: the step with the regulariser, over the bare one;
- ``alone / bare``: the regulariser by itself, value and gradients or projection, over the bare step. It says more than
  the first where steps vary by more than a regulariser takes. What needs a forward pass has none.

On the CPU, seconds are those that the process computes, so that other work on the machine does not count.

    python -m benchmarks.regularisation                                       # on the GPU if there is one, else the CPU
    python -m benchmarks.regularisation --sections penalties --batch-size 32 --rounds 5
    python -m benchmarks.regularisation --alone                               # the second ratio only, in far less time
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_advreg.constraints import (
    AdaptiveBound,
    Constraint,
    MagnitudePruning,
    MaxNorm,
    NonNegative,
    Orthogonal,
    Parseval,
    SpectralProjection,
    WeightClip,
)
from lightning_advreg.modules.limits import Limits
from lightning_advreg.networks import ResNet18
from lightning_advreg.penalties import (
    L1,
    L2,
    L2SP,
    ActivityL1,
    ConfidencePenalty,
    ElasticNet,
    GroupLasso,
    InputGradient,
    InputPenalty,
    Jacobian,
    Orthogonality,
    Penalty,
    SpectralNormPenalty,
    TrainingPass,
    WeightPenalty,
)
from lightning_advreg.penalties.in_training import begin, bind, evaluate, watching
from lightning_advreg.perturbations import ASAM, AWP, SAM, WeightPerturbation

Act = Callable[[], object]


class Contestant(NamedTuple):
    """A training step with a regulariser, and the regulariser by itself, where that can be."""

    step: Act
    alone: Act | None


Build = Callable[[Tensor, Tensor], Contestant]
"""From images and labels to a contestant."""


def bare(x: Tensor, y: Tensor) -> Contestant:
    """The step without a regulariser."""
    return _step(x, y, _network(x))


def with_penalty(penalty: Penalty) -> Build:
    """Give the step with a penalty in its loss."""

    def build(x: Tensor, y: Tensor) -> Contestant:
        network = _network(x)
        penalties = bind({"penalty": penalty}, network)
        begin(penalties, network)
        return _step(x, y, network, penalties)

    return build


def with_perturbation(perturbation: WeightPerturbation) -> Build:
    """Give the step whose gradient is taken at perturbed weights."""

    def build(x: Tensor, y: Tensor) -> Contestant:
        network = _network(x)
        optimizer = _optimizer(network)

        def step() -> None:
            optimizer.zero_grad()
            climb = perturbation.climb_(network, lambda: F.cross_entropy(network(x), y))
            with climb.at_the_top():
                loss = F.cross_entropy(network(x), y)
            loss.backward()
            climb.back_()
            optimizer.step()

        return Contestant(step, None)

    return build


def _step(x: Tensor, y: Tensor, network: nn.Module, penalties: dict[str, Penalty] | None = None) -> Contestant:
    named = penalties or {}
    optimizer = _optimizer(network)
    images = x.clone().requires_grad_(any(isinstance(p, InputPenalty) for p in named.values()))

    def step() -> None:
        optimizer.zero_grad()
        with watching(named, network) as watched:
            logits = network(images)
        loss = F.cross_entropy(logits, y)
        for _, (value, _) in evaluate(named, TrainingPass(network, images, y, logits, watched), epoch=0):
            loss = loss + value
        loss.backward()
        optimizer.step()

    def alone() -> None:
        for _, (value, _) in evaluate(named, TrainingPass(network), epoch=0):
            # into gradients that are there, as those of the loss are
            value.backward()

    return Contestant(step, alone if any(isinstance(p, WeightPenalty) for p in named.values()) else None)


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)


def _network(x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    return ResNet18().to(x.device).train()


def with_constraint(make: Callable[[], Constraint]) -> Build:
    """Give the step with a projection after it, reports included."""

    def build(x: Tensor, y: Tensor) -> Contestant:
        network = _network(x)
        plain, limits = _step(x, y, network), Limits([make()]).to(x.device)

        def alone() -> None:
            limits.project_(network, epoch=0)

        def step() -> None:
            plain.step()
            alone()

        return Contestant(step, alone)

    return build


CONSTRAINTS: dict[str, Build] = {
    "MaxNorm": with_constraint(lambda: MaxNorm(1.0)),
    "MaxNorm (adaptive)": with_constraint(lambda: MaxNorm(AdaptiveBound(1.0))),
    "WeightClip": with_constraint(lambda: WeightClip(0.05)),
    "NonNegative": with_constraint(NonNegative),
    "MagnitudePruning": with_constraint(lambda: MagnitudePruning(0.5)),
    "MagnitudePruning (units)": with_constraint(lambda: MagnitudePruning(0.5, granularity="unit")),
    "Parseval": with_constraint(Parseval),
    "SpectralProjection": with_constraint(lambda: SpectralProjection(1.0)),
    "SpectralProjection (convolution)": with_constraint(lambda: SpectralProjection(1.0, operator="convolution")),
}

DECOMPOSITIONS: dict[str, Build] = {
    "SpectralProjection (exact)": with_constraint(lambda: SpectralProjection(1.0, exact=True)),
    "Orthogonal": with_constraint(Orthogonal),
}


PENALTIES: dict[str, Build] = {
    "L1": with_penalty(L1(1e-5)),
    "L2": with_penalty(L2(1e-4)),
    "ElasticNet": with_penalty(ElasticNet(1e-5, 1e-4)),
    "GroupLasso": with_penalty(GroupLasso(1e-5)),
    "Orthogonality": with_penalty(Orthogonality(1e-4)),
    "SpectralNormPenalty": with_penalty(SpectralNormPenalty(1e-3)),
    "L2SP": with_penalty(L2SP(1e-3)),
    "ConfidencePenalty": with_penalty(ConfidencePenalty(0.1)),
    "ActivityL1 (8 blocks)": with_penalty(ActivityL1(1e-3, layers="stages.?.?")),
    "InputGradient": with_penalty(InputGradient(0.1)),
    "Jacobian (1 projection)": with_penalty(Jacobian(0.01)),
}

PERTURBATIONS: dict[str, Build] = {
    "SAM": with_perturbation(SAM()),
    "ASAM": with_perturbation(ASAM()),
    "AWP": with_perturbation(AWP()),
}

SECTIONS: dict[str, dict[str, Build]] = {
    "penalties": PENALTIES,
    "perturbations": PERTURBATIONS,
    "constraints": CONSTRAINTS,
    "decompositions": DECOMPOSITIONS,
}


def main() -> None:
    """Measure and print a Markdown table for each section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=None, help="steps timed together; default: 1, on the GPU 20")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="NAME", help="those whose names begin with one of these"
    )
    parser.add_argument("--alone", action="store_true", help="time the bare step, and regularisers by themselves")
    options = parser.parse_args()
    device = torch.device(options.device)
    repeats = options.repeats or (1 if device.type == "cpu" else 20)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    x = torch.rand(options.batch_size, 3, 32, 32, device=device)
    y = torch.randint(10, (options.batch_size,), device=device)
    for section in options.sections:
        print(f"torch {torch.__version__}, {name}, batch {options.batch_size}, {options.rounds} rounds: {section}\n")
        print("| regulariser | step / bare | alone / bare |\n|---|---|---|", flush=True)
        chosen = {name: b for name, b in SECTIONS[section].items() if name.startswith(tuple(options.only))}
        for row in _rows({"bare": bare, **chosen}, x, y, options.rounds, repeats, options.alone):
            print(row, flush=True)
        print()


def _rows(builds: dict[str, Build], x: Tensor, y: Tensor, rounds: int, repeats: int, only_alone: bool) -> list[str]:
    contestants = {name: build(x, y) for name, build in builds.items()}
    if only_alone:
        contestants = {name: c for name, c in contestants.items() if name == "bare" or c.alone is not None}
    steps: dict[str, list[float]] = {name: [] for name in contestants}
    alone: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(rounds + 1):
        order = list(contestants) if index % 2 == 0 else list(reversed(contestants))
        for name in order:
            contestant = contestants[name]
            seconds = 0.0 if only_alone and name != "bare" else _time(contestant.step, x, repeats)
            by_itself = 0.0 if contestant.alone is None else _time(contestant.alone, x, repeats)
            if index > 0:  # the first round warms up
                steps[name].append(seconds)
                alone[name].append(by_itself)
    rows = [f"| bare | 1 ({1000 * statistics.median(steps['bare']):,.1f} ms) | |"]
    for name, contestant in list(contestants.items())[1:]:
        ratio = "" if only_alone else f"{_median_ratio(steps[name], steps['bare']):.3f}"
        share = "" if contestant.alone is None else f"{_median_ratio(alone[name], steps['bare']):.4f}"
        rows.append(f"| {name} | {ratio} | {share} |")
    return rows


def _median_ratio(of: list[float], to: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def _time(act: Act, x: Tensor, repeats: int) -> float:
    clock = time.process_time if x.device.type == "cpu" else time.perf_counter
    _wait(x.device)
    started = clock()
    for _ in range(repeats):
        act()
    _wait(x.device)
    return (clock() - started) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
