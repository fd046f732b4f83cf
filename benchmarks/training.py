"""Images per second of one PGD-10 adversarial training step: ours, a plain loop with torchattacks, and the floor.

The floor is what the bare network must compute whatever the code around it does: ``steps`` times a forward pass with
the gradient of the input, one forward pass, and one backward pass with all gradients, in the same precision and layout.

All three take turns within one run, so that a busy machine slows them alike, and each ratio is the median over rounds.

    python -m benchmarks.training                     # the default networks on the CPU, or on the GPU if there is one
    python -m benchmarks.training --network resnet18 --batch-size 32 --rounds 5
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.networks import MNISTConvNet, ResNet18

EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
Step = Callable[[Tensor, Tensor], None]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mnist", "resnet18", "all"], default="all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=None, help="default: 128, 32 for ResNet-18 on the CPU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps-per-round", type=int, default=None)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {_device_name(options.device)}, float32, eager, PGD-{STEPS}, SGD\n")
    print("| network | batch | ours img/s | torchattacks img/s | floor img/s | ours / torchattacks | floor / ours |")
    print("|---|---|---|---|---|---|---|")
    for name in ["mnist", "resnet18"] if options.network == "all" else [options.network]:
        print(_row(name, options), flush=True)


def _row(name: str, options: argparse.Namespace) -> str:
    on_cpu = options.device == "cpu"
    batch = options.batch_size or (32 if name == "resnet18" and on_cpu else 128)
    repeats = options.steps_per_round or (1 if name == "resnet18" and on_cpu else 10)
    torch.manual_seed(0)
    shape = (1, 28, 28) if name == "mnist" else (3, 32, 32)
    x, y = torch.rand(batch, *shape, device=options.device), torch.randint(10, (batch,), device=options.device)
    build = MNISTConvNet if name == "mnist" else ResNet18
    contestants = {
        kind: make(build().to(options.device))
        for kind, make in {"ours": ours, "torchattacks": with_torchattacks, "floor": floor}.items()
    }
    for step in contestants.values():
        step(x, y)
    seconds: dict[str, list[float]] = {kind: [] for kind in contestants}
    for round_index in range(options.rounds):
        order = list(contestants) if round_index % 2 == 0 else list(reversed(contestants))
        for kind in order:
            seconds[kind].append(_time(contestants[kind], x, y, repeats))
    speed = {kind: batch * repeats / statistics.median(times) for kind, times in seconds.items()}
    peer = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["torchattacks"], strict=True))
    bound = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["floor"], strict=True))
    figures = " | ".join(f"{speed[kind]:,.1f}" for kind in ("ours", "torchattacks", "floor"))
    return f"| {name} | {batch} | {figures} | {peer:.2f} | {bound:.2f} |"


def ours(network: nn.Module) -> Step:
    """The training step of AdversarialClassifier, logging aside."""
    network.train()
    attack = PGD(eps=EPS, step_size=STEP, steps=STEPS)
    model = AdversarialClassifier(network, attack=attack)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        model.prepare(x, y, batch_idx=1)().loss.backward()
        optimizer.step()

    return step


def with_torchattacks(network: nn.Module) -> Step:
    """The loop people write: torchattacks makes the images, the loop trains on them."""
    network.train()
    attack = torchattacks.PGD(network, eps=EPS, alpha=STEP, steps=STEPS)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> None:
        x_adv = attack(x, y)
        optimizer.zero_grad()
        F.cross_entropy(network(x_adv), y).backward()
        optimizer.step()

    return step


def floor(network: nn.Module) -> Step:
    """The passes alone: the network in evaluation mode and frozen for input gradients, then one full step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    parameters = list(network.parameters())

    def step(x: Tensor, y: Tensor) -> None:
        network.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
        for _ in range(STEPS):
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(network(leaf), y), leaf)
        network.train()
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def _time(step: Step, x: Tensor, y: Tensor, repeats: int) -> float:
    _wait(x.device)
    started = time.perf_counter()
    for _ in range(repeats):
        step(x, y)
    _wait(x.device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
