"""Images per second of one adversarial training step: ours, a plain loop with torchattacks, and the floor.

The floor is what the bare network must compute whatever the code around it does, in the same precision and layout: for
each attack step a forward pass with the gradient of the input, and for each full pass of the method (two for TRADES and
for AWP) one forward pass and one backward pass with all gradients.

With ``--compile`` and ``--channels-last`` ours and the floor are compiled, or laid out so; the peer stays what people
write.

All three take turns within one run, so that a busy machine slows them alike, and each ratio is the median over rounds.
Where other programs take most of a machine, ``--cpu-time`` counts the time that this one had a processor, in a thread.

    python -m benchmarks.training                     # the default networks on the CPU, or on the GPU if there is one
    python -m benchmarks.training --network resnet18 --batch-size 32 --rounds 5 --methods pgd trades fgsm_rs awp
"""

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import FGSM, PGD, Attack
from lightning_advreg.modules import Engine
from lightning_advreg.networks import MNISTConvNet, ResNet18
from lightning_advreg.objectives import PGDAT, TRADES, Objective
from lightning_advreg.perturbations import AWP, WeightPerturbation

EPS, STEP, STEPS, GAMMA = 8 / 255, 2 / 255, 10, 0.005
Step = Callable[[Tensor, Tensor], None]
Peer = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Method:
    """A method of training: ours, the attack of torchattacks that people take for it, and what it must compute."""

    attack: Attack
    peer: Peer
    steps: int
    full_passes: int = 1
    objective: Objective = PGDAT()
    weight_perturbation: WeightPerturbation | None = None


_PGD, _RS = PGD(eps=EPS, step_size=STEP, steps=STEPS), FGSM(eps=EPS, random_start=True)


def _peer_pgd(network: nn.Module) -> Any:  # noqa: ANN401
    return torchattacks.PGD(network, eps=EPS, alpha=STEP, steps=STEPS)


METHODS = {
    "pgd": Method(_PGD, _peer_pgd, STEPS),
    "trades": Method(
        _PGD, lambda net: torchattacks.TPGD(net, eps=EPS, alpha=STEP, steps=STEPS), STEPS, 2, TRADES(beta=6)
    ),
    "fgsm_rs": Method(_RS, lambda net: torchattacks.FFGSM(net, eps=EPS, alpha=1.25 * EPS), 1),
    "awp": Method(_PGD, _peer_pgd, STEPS, 2, weight_perturbation=AWP(gamma=GAMMA)),
}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mnist", "resnet18", "all"], default="all")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=None, help="default: 128, 32 for ResNet-18 on the CPU")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps-per-round", type=int, default=None)
    parser.add_argument("--compile", action="store_true", help="compile ours and the floor")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time, in one thread; on the CPU alone")
    parser.add_argument("--channels-last", action="store_true", help="lay ours and the floor out so")
    options = parser.parse_args()
    if options.cpu_time:
        if options.device != "cpu":
            parser.error("--cpu-time leaves out what a GPU does; give --device cpu as well")
        torch.set_num_threads(1)
    how = ("compiled" if options.compile else "eager") + (", channels_last" if options.channels_last else "")
    how += ", processor time" if options.cpu_time else ""
    print(f"torch {torch.__version__}, {_device_name(options.device)}, float32, {how}, {STEPS} steps of PGD, SGD\n")
    columns = ["method", "network", "batch", "ours img/s", "torchattacks img/s", "floor img/s"]
    columns += ["ours / torchattacks", "ours / floor"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for network in ["mnist", "resnet18"] if options.network == "all" else [options.network]:
        for name in options.methods:
            print(_row(name, network, options), flush=True)


def _row(name: str, network: str, options: argparse.Namespace) -> str:
    on_cpu = options.device == "cpu"
    batch = options.batch_size or (32 if network == "resnet18" and on_cpu else 128)
    repeats = options.steps_per_round or (1 if network == "resnet18" and on_cpu else 10)
    torch.manual_seed(0)
    shape = (1, 28, 28) if network == "mnist" else (3, 32, 32)
    x, y = torch.rand(batch, *shape, device=options.device), torch.randint(10, (batch,), device=options.device)
    build = MNISTConvNet if network == "mnist" else ResNet18
    engine = Engine(compile=options.compile, channels_last=options.channels_last)
    networks = [build().to(options.device) for _ in range(3)]
    contestants = {
        "ours": ours(networks[0], METHODS[name], engine),
        "torchattacks": with_torchattacks(networks[1], METHODS[name]),
        "floor": floor(networks[2], METHODS[name], engine),
    }
    for step in contestants.values():
        # the second one as well, for what is made in the first
        step(x, y)
        step(x, y)
    clock = time.process_time if options.cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {kind: [] for kind in contestants}
    for round_index in range(options.rounds):
        order = list(contestants) if round_index % 2 == 0 else list(reversed(contestants))
        for kind in order:
            seconds[kind].append(_time(contestants[kind], x, y, repeats, clock))
    speed = {kind: batch * repeats / statistics.median(times) for kind, times in seconds.items()}
    ratios = [
        statistics.median(b / a for a, b in zip(seconds["ours"], seconds[other], strict=True))
        for other in ("torchattacks", "floor")
    ]
    figures = " | ".join(f"{speed[kind]:,.1f}" for kind in ("ours", "torchattacks", "floor"))
    return f"| {name} | {network} | {batch} | {figures} | {ratios[0]:.2f} | {ratios[1]:.2f} |"


def ours(network: nn.Module, method: Method, engine: Engine) -> Step:
    """The training step of AdversarialClassifier, logging aside."""
    network.train()
    perturbation = method.weight_perturbation
    model = AdversarialClassifier(
        network, attack=method.attack, objective=method.objective, weight_perturbation=perturbation, engine=engine
    )
    model.setup("fit")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        with model.accelerated(x) as images:
            objective = model.prepare(images, y, batch_idx=1)
            if perturbation is None:
                objective().loss.backward()
            else:
                climb = perturbation.climb_(network, lambda: objective().loss)
                with climb.at_the_top():
                    objective().loss.backward()
                climb.back_()
        optimizer.step()

    return step


def with_torchattacks(network: nn.Module, method: Method) -> Step:
    """The loop people write: torchattacks makes the images, the loop trains on them."""
    network.train()
    attack = method.peer(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def loss_of(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
        if not isinstance(method.objective, TRADES):
            return F.cross_entropy(model(x_adv), y)
        logits = model(x)
        divergence = F.kl_div(model(x_adv).log_softmax(1), logits.softmax(1), reduction="batchmean")
        return F.cross_entropy(logits, y) + 6 * divergence

    def step(x: Tensor, y: Tensor) -> None:
        x_adv = attack(x, y)
        offsets: list[tuple[nn.Parameter, Tensor]] = []
        if method.weight_perturbation is not None:
            # on a copy, as published code does
            proxy = deepcopy(network)
            loss_of(proxy, x, x_adv, y).backward()
            for own, other in zip(network.parameters(), proxy.parameters(), strict=True):
                if own.dim() > 1 and other.grad is not None:
                    offsets.append((own, GAMMA * own.detach().norm() / (other.grad.norm() + 1e-20) * other.grad))
        with torch.no_grad():
            for parameter, offset in offsets:
                parameter.add_(offset)
        optimizer.zero_grad()
        loss_of(network, x, x_adv, y).backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, offset in offsets:
                parameter.sub_(offset)

    return step


def floor(network: nn.Module, method: Method, engine: Engine) -> Step:
    """The passes alone: the network in evaluation mode and frozen for input gradients, then the full passes."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    parameters = list(network.parameters())
    run = torch.compile(network, dynamic=False) if engine.compile else network
    if engine.channels_last:
        network.to(memory_format=torch.channels_last)

    def step(x: Tensor, y: Tensor) -> None:
        if engine.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        network.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
        for _ in range(method.steps):
            leaf = x.detach().requires_grad_()
            torch.autograd.grad(F.cross_entropy(run(leaf), y), leaf)
        network.train()
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimizer.zero_grad()
        for _ in range(method.full_passes):
            F.cross_entropy(run(x), y).backward()
        optimizer.step()

    return step


def _time(step: Step, x: Tensor, y: Tensor, repeats: int, clock: Callable[[], float]) -> float:
    _wait(x.device)
    started = clock()
    for _ in range(repeats):
        step(x, y)
    _wait(x.device)
    return clock() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} thread(s)"


if __name__ == "__main__":
    main()
