"""Seconds and robust accuracy of attacks: ours against torchattacks, on one network, one set of images and one budget.

Both attack the same images with the same number of steps and queries; the suite of torchattacks is set to the 100 steps
of the paper (it ships with 10). Contestants take turns within one run, and each ratio is the median over rounds.
Accuracy is counted by the plain network after the attack.

    python -m benchmarks.attacks --network mnist --data-dir DIR --images 200
    python -m benchmarks.attacks --network resnet18 --data cifar10.npz --images 16 --queries 500 --suite-images 8

``--weights`` names a file: the network is loaded from it or, where there is none, trained for ``--train-steps`` steps
of FGSM-RS and saved there; a checkpoint of AdversarialClassifier will do. ``--data`` is an archive with x_train,
y_train, x_test, y_test (uint8, N x H x W x C). ``--suite-steps`` and ``--suite-queries`` lower the budget of both
suites, for a CPU. ``--stages`` prints what each stage of our suite leaves and costs. ``--memory`` measures the peak of
AutoAttack on 10,000 images instead. Square proposes on the schedule of torchattacks here, rescaled to its queries.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn

from lightning_advreg.attacks import (
    APGD,
    FGSM,
    PGD,
    Acceleration,
    AutoAttack,
    LongAttack,
    Square,
    attack_in_stages,
    evaluate,
)
from lightning_advreg.data import MNISTDataModule
from lightning_advreg.networks import MNISTConvNet, ResNet18

Images = tuple[Tensor, Tensor]
Contestant = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=["mnist", "resnet18"], default="mnist")
    parser.add_argument("--data-dir", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--data", default="cifar10.npz", help="archive for resnet18")
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--train-steps", type=int, default=400)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--eps", type=float, default=None, help="Linf; default 0.3, 4/255 for resnet18")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--suite-images", type=int, default=None, help="default: as --images; 0 leaves the suite out")
    parser.add_argument("--suite-steps", type=int, default=100)
    parser.add_argument("--suite-queries", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=5000, help="of the single Square")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="compile our network, as on a GPU")
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--memory", type=int, nargs="?", const=10_000, metavar="IMAGES")
    options = parser.parse_args()
    if options.memory:
        measure_memory(options.memory)
        return
    network, (x, y) = _network(options)
    eps = options.eps or (0.3 if options.network == "mnist" else 4 / 255)
    print(
        f"torch {torch.__version__}, {_device_name(options.device)}, float32, {options.network}, Linf eps {eps:.4g}\n"
    )
    print("| attack | images | ours s | torchattacks s | speed-up | ours robust acc | torchattacks robust acc |")
    print("|---|---|---|---|---|---|---|")
    x, y = x[: options.images].to(options.device), y[: options.images].to(options.device)
    for name, pair in singles(network, eps, options.queries, options.compile).items():
        print(_row(name, network, pair, x, y, options.rounds), flush=True)
    count = options.images if options.suite_images is None else options.suite_images
    if count:
        pair = suites(network, eps, options)
        print(
            _row(
                f"AutoAttack, {options.suite_steps} steps, {options.suite_queries} queries",
                network,
                pair,
                x[:count],
                y[:count],
                1,
            ),
            flush=True,
        )
    if options.stages:
        _print_stages(network, eps, x, y)


def singles(network: nn.Module, eps: float, queries: int, compiled: bool) -> dict[str, tuple[Contestant, Contestant]]:
    """Give our call and theirs, for each single attack."""

    def pgd(x: Tensor, y: Tensor) -> Tensor:
        stages = {"pgd": PGD(eps=eps, step_size=eps / 4, steps=20, stop_at_success=True)}
        return attack_in_stages(network, x, y, stages, acceleration=_acceleration(compiled)).x_adv

    def ours(attack: LongAttack) -> Contestant:
        return lambda x, y: attack(network, x, y)

    acceleration = _acceleration(compiled)
    return {
        "PGD-20": (pgd, torchattacks.PGD(network, eps=eps, alpha=eps / 4, steps=20)),
        "APGD-CE, 100 steps": (
            ours(APGD(eps=eps, steps=100, acceleration=acceleration)),
            torchattacks.APGD(network, eps=eps, steps=100, n_restarts=1, loss="ce", seed=0),
        ),
        f"Square, {queries} queries": (
            ours(Square(eps=eps, queries=queries, rescale=True, acceleration=acceleration)),
            torchattacks.Square(network, eps=eps, n_queries=queries, n_restarts=1, seed=0),
        ),
    }


def suites(network: nn.Module, eps: float, options: argparse.Namespace) -> tuple[Contestant, Contestant]:
    """Give our AutoAttack and theirs, with one budget."""
    theirs = torchattacks.AutoAttack(network, eps=eps, version="standard", n_classes=10, seed=0)
    for attack in theirs._autoattack.attacks[:3]:
        attack.steps = options.suite_steps
    theirs._autoattack.attacks[3].n_queries = options.suite_queries
    budget = {"steps": options.suite_steps, "queries": options.suite_queries}
    ours = AutoAttack(eps=eps, seed=0, acceleration=_acceleration(options.compile), **budget)
    return lambda x, y: ours(network, x, y), theirs


def measure_memory(images: int) -> None:
    """Print the peak of AutoAttack on images of 32 x 32 with a small network, from Linux's /proc."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 8, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 10)).eval()
    x = torch.rand(images, 3, 32, 32)
    y = torch.cat([model(part).argmax(1).detach() for part in x.split(500)])
    attack = AutoAttack(eps=1 / 255, steps=5, queries=20, batch_size=128, progress=True)
    evaluate(attack, model, x[:256], y[:256])
    Path("/proc/self/clear_refs").write_text("5")
    before, started = _peak_bytes(), time.perf_counter()
    outcome = evaluate(attack, model, x, y)
    peak, result, batch = _peak_bytes() - before, outcome.x_adv.numel() * 4, x[:128].numel() * 4
    left = ", ".join(f"{name} {outcome.standing_after(name)}" for name in outcome.names)
    print(f"{len(x)} images, {time.perf_counter() - started:.0f} s, left after {left}")
    print(
        f"peak {peak / 2**20:.1f} MiB = result {result / 2**20:.1f} MiB + {(peak - result) / batch:.1f} batches of 128"
    )


def _row(name: str, network: nn.Module, pair: tuple[Contestant, ...], x: Tensor, y: Tensor, rounds: int) -> str:
    seconds: list[list[float]] = [[], []]
    accuracy = [0.0, 0.0]
    for turn in range(rounds):
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            torch.manual_seed(turn)
            _wait(x.device)
            started = time.perf_counter()
            x_adv = pair[index](x, y)
            _wait(x.device)
            seconds[index].append(time.perf_counter() - started)
            with torch.no_grad():
                accuracy[index] += float((network(x_adv).argmax(1) == y).float().mean()) / rounds
    ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
    ours, theirs = (f"{statistics.median(times):.1f}" for times in seconds)
    robust = " | ".join(f"{100 * share:.2f} %" for share in accuracy)
    return f"| {name} | {len(x)} | {ours} | {theirs} | {ratio:.2f} | {robust} |"


def _print_stages(network: nn.Module, eps: float, x: Tensor, y: Tensor) -> None:
    outcome = evaluate(AutoAttack(eps=eps), network, x, y)
    print(f"\n| stage | accuracy on {len(x)} images | seconds |\n|---|---|---|")
    print(f"| none | {100 * float(outcome.clean.float().mean()):.2f} % | |")
    for name, seconds in zip(outcome.names, outcome.seconds, strict=True):
        print(f"| {name} | {100 * outcome.standing_after(name) / len(x):.2f} % | {seconds:.1f} |")


def _network(options: argparse.Namespace) -> tuple[nn.Module, Images]:
    torch.manual_seed(0)
    train, test = _mnist(options.data_dir) if options.network == "mnist" else _archive(options.data)
    network: nn.Module = MNISTConvNet() if options.network == "mnist" else ResNet18(num_classes=10)
    if options.weights is not None and options.weights.is_file():
        stored = torch.load(options.weights, weights_only=True, map_location="cpu")
        weights = stored.get("state_dict", stored)
        network.load_state_dict({name.removeprefix("network."): value for name, value in weights.items()})
    else:
        eps = 0.3 if options.network == "mnist" else 8 / 255
        _train(network.to(options.device), *train, eps, options)
        if options.weights is not None:
            torch.save(network.state_dict(), options.weights)
    return network.to(options.device).eval(), test


def _train(network: nn.Module, x: Tensor, y: Tensor, eps: float, options: argparse.Namespace) -> None:
    steps = options.train_steps
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps, pct_start=0.2)
    network.train()
    for step in range(steps):
        rows = torch.randint(len(x), (64,))
        images, labels = x[rows].to(options.device), y[rows].to(options.device)
        grown = max(min(1.0, 2 * step / steps), 1e-3)  # the whole budget from the start would not train
        attack = FGSM(eps=eps * grown, step_size=eps * grown, random_start=True, check=False)
        loss = F.cross_entropy(network(attack(network, images, labels)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _mnist(folder: str) -> tuple[Images, Images]:
    data = MNISTDataModule(data_dir=folder, val_size=0, eval_batch_size=10_000, loader="resident", batch_size=60_000)
    data.setup("fit")
    data.setup("test")
    x, y = next(iter(data.test_dataloader()))
    train = next(iter(data.train_dataloader()))
    return (train[0], train[1]), (x, y)


def _archive(path: str) -> tuple[Images, Images]:
    with np.load(path) as arrays:
        parts = [
            (torch.from_numpy(arrays[f"x_{part}"]), torch.from_numpy(arrays[f"y_{part}"]).long())
            for part in ("train", "test")
        ]
    train, test = ((x.permute(0, 3, 1, 2).contiguous().float() / 255, y) for x, y in parts)
    return train, test


def _acceleration(compiled: bool) -> Acceleration:
    return Acceleration(compile=compiled)


def _peak_bytes() -> int:
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU with {torch.get_num_threads()} threads"


if __name__ == "__main__":
    main()
