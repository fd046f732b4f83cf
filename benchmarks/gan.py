"""Images per second of one step of both networks of a GAN: ours, a plain PyTorch loop, and the floor.

Ours is ``Trainer.fit`` of ``GAN``, from the moment that a batch is handed to the Trainer until it asks for the next
one: the whole training step with its moving average, what is logged, and what Lightning does between batches. No
logger, checkpoint or validation runs. The plain loop is what people write: two passes and two backward passes for the
discriminator, then one of both networks for the generator, in which the discriminator's weights get gradients as well;
it uses the generated images twice, where ours draws new noise unless ``--reuse`` is given. The floor is the passes
alone that ours must compute with new noise, in the same layout, compiled where ours is, with PyTorch's fused Adam:
images without a graph, both kinds of images through the discriminator, and the generator's pass through a frozen
discriminator.

GFLOP are those of the floor's passes, as PyTorch counts matrix products and convolutions, on average over steps where a
penalty skips some. Each contestant's GFLOP/s are these over its seconds.

With ``--engine``, ours has ``Engine()``; ``--compile`` and ``--channels-last`` switch it on as well. The three take
turns within one run, so that a busy machine slows them alike, and each ratio is the median over rounds. Where other
programs take most of a machine, ``--cpu-time`` counts the time that this one had a processor, in a thread.

    python -m benchmarks.gan                                     # all networks, on the GPU if there is one
    python -m benchmarks.gan --networks dcgan28 --penalties r1 --compile --cpu-time --device cpu
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_advreg import GAN
from lightning_advreg.modules import Engine
from lightning_advreg.networks import DCGANDiscriminator, DCGANGenerator, SNGANDiscriminator, SNGANGenerator
from lightning_advreg.networks.gan_base import Discriminator, Generator
from lightning_advreg.penalties import R1

GAMMA, EVERY = 1.0, 16
Step = Callable[[Tensor], None]


@dataclass(frozen=True)
class Pair:
    """Two networks that go together."""

    generator: Callable[[], Generator]
    discriminator: Callable[..., Discriminator]


_RGB = (3, 32, 32)
PAIRS = {
    "dcgan28": Pair(DCGANGenerator, DCGANDiscriminator),
    "dcgan32": Pair(
        partial(DCGANGenerator, image_shape=_RGB, latent_dim=128), partial(DCGANDiscriminator, image_shape=_RGB)
    ),
    "sngan32": Pair(partial(SNGANGenerator, width=256), partial(SNGANDiscriminator, width=256)),
}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(PAIRS), default=list(PAIRS))
    parser.add_argument(
        "--penalties", nargs="+", choices=["none", "r1"], default=["none", "r1"], help="r1 in every 16th step"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps-per-round", type=int, default=None, help="default: 16 with r1, else 8, 1 for sngan32")
    parser.add_argument("--engine", action="store_true", help="give ours the engine")
    parser.add_argument("--reuse", action="store_true", help="let ours use generated images twice, as the plain loop")
    parser.add_argument("--compile", action="store_true", help="compile ours and the floor")
    parser.add_argument("--channels-last", action="store_true", help="lay ours and the floor out so")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time, in one thread; on the CPU alone")
    options = parser.parse_args()
    if options.cpu_time:
        if options.device != "cpu":
            parser.error("--cpu-time leaves out what a GPU does; give --device cpu as well")
        torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*|.*No .*logger.*|.*log_every_n_steps.*")
    engine = _engine(options)
    name = (
        torch.cuda.get_device_name() if options.device.startswith("cuda") else f"CPU, {torch.get_num_threads()} thread"
    )
    clock = "processor time" if options.cpu_time else "wall clock"
    print(f"torch {torch.__version__}, {name}, float32, {clock}, {engine}\n")
    columns = ["networks", "penalty", "batch", "GFLOP a step (D, G)", "ours img/s", "plain img/s", "floor img/s"]
    columns += ["ours GFLOP/s", "plain GFLOP/s", "floor GFLOP/s", "ours / plain", "ours / floor"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for network in options.networks:
        for penalty in options.penalties:
            print(_row(network, penalty, engine, options), flush=True)


def _engine(options: argparse.Namespace) -> Engine | None:
    if not (options.engine or options.compile or options.channels_last):
        return None
    return Engine(compile=options.compile, channels_last=options.channels_last)


def _row(network: str, penalty: str, engine: Engine | None, options: argparse.Namespace) -> str:
    batch, lazily = options.batch_size, penalty == "r1"
    # a round has each step that a penalty skips, and the one that it does not
    repeats = options.steps_per_round or (EVERY if lazily else 1 if network == "sngan32" else 8)
    torch.manual_seed(0)
    build = PAIRS[network]
    # R1 is a penalty on the gradient of single images, which BatchNorm mixes
    without = {"norm": "none"} if lazily else {}
    pairs = [
        (build.generator().to(options.device), build.discriminator(**without).to(options.device)) for _ in range(3)
    ]
    x = torch.rand(batch, *pairs[0][0].image_shape, device=options.device)
    others = {"plain": plain(*pairs[1], lazily=lazily), "floor": floor(*pairs[2], lazily=lazily, engine=engine)}
    flops = count(*pairs[2], x, lazily=lazily)
    clock = time.process_time if options.cpu_time else time.perf_counter
    laps = Laps(x, repeats, options.rounds, others, clock)
    gan = GAN(
        *pairs[0],
        critic_penalties=[R1(GAMMA, every=EVERY)] if lazily else [],
        engine=engine,
        reuse_generated=options.reuse,
    )
    accelerator = "cpu" if options.device == "cpu" else "gpu"
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(gan, laps)
    seconds = {name: [t / repeats for t in times] for name, times in laps.seconds.items()}
    kinds = ("ours", "plain", "floor")
    typical = {kind: statistics.median(seconds[kind]) for kind in kinds}
    ratios = [
        statistics.median(b / a for a, b in zip(seconds["ours"], seconds[other], strict=True))
        for other in ("plain", "floor")
    ]
    speeds = " | ".join(f"{batch / typical[kind]:,.1f}" for kind in kinds)
    rates = " | ".join(f"{sum(flops) / typical[kind] / 1e9:,.1f}" for kind in kinds)
    gflop = f"{sum(flops) / 1e9:.2f} ({flops[0] / 1e9:.2f}, {flops[1] / 1e9:.2f})"
    return f"| {network} | {penalty} | {batch} | {gflop} | {speeds} | {rates} | {ratios[0]:.3f} | {ratios[1]:.3f} |"


class Laps:
    """A loader that hands out one batch again and again, and lets other contestants run in between.

    Args:
        x: The batch.
        repeats: Steps in a round.
        rounds: The number of rounds; one before them is not counted.
        others: The other contestants.
        clock: What gives the seconds.
    """

    def __init__(
        self, x: Tensor, repeats: int, rounds: int, others: dict[str, Step], clock: Callable[[], float]
    ) -> None:
        self.batch = (x, torch.zeros(len(x), dtype=torch.int64, device=x.device))
        self.repeats, self.rounds, self.others, self.clock = repeats, rounds, others, clock
        self.seconds: dict[str, list[float]] = {"ours": [], **{name: [] for name in others}}

    def __len__(self) -> int:
        """Give the number of batches: the last one only ends the round before it."""
        # an even number in the first round at least, for what is made in a first and a second step
        return self.warming + self.rounds * self.repeats + 1

    @property
    def warming(self) -> int:
        """The number of steps that are not counted."""
        return max(self.repeats, 2)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the batch; between rounds, time the others."""
        for _ in range(self.warming):
            yield self.batch
        self._time_others()
        for times in self.seconds.values():
            times.clear()
        for _ in range(self.rounds):
            self._wait()
            started = self.clock()
            for _ in range(self.repeats):
                yield self.batch
            self._wait()
            self.seconds["ours"].append(self.clock() - started)
            self._time_others()
        yield self.batch

    def _time_others(self) -> None:
        # in turn: what came first in one round comes last in the next
        order = list(self.others) if len(self.seconds["ours"]) % 2 else list(reversed(self.others))
        # the Trainer asks for a batch within no_grad or the like, at its own choice
        with torch.enable_grad():
            for name in order:
                self._wait()
                started = self.clock()
                for _ in range(self.repeats):
                    self.others[name](self.batch[0])
                self._wait()
                self.seconds[name].append(self.clock() - started)

    def _wait(self) -> None:
        if self.batch[0].is_cuda:
            torch.cuda.synchronize()


def plain(generator: Generator, discriminator: nn.Module, *, lazily: bool) -> Step:
    """The loop that people write, in the order of the DCGAN tutorial of PyTorch.

    Args:
        generator: The generator.
        discriminator: The discriminator.
        lazily: Whether every 16th step has the penalty R1.
    """
    adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999))
    of_discriminator, of_generator = adam(discriminator.parameters()), adam(generator.parameters())
    steps = 0

    def step(x: Tensor) -> None:
        nonlocal steps
        ones, zeros = torch.ones(len(x), device=x.device), torch.zeros(len(x), device=x.device)
        of_discriminator.zero_grad()
        penalised = lazily and steps % EVERY == 0
        real = x.detach().requires_grad_(penalised)
        logits = discriminator(real)
        loss = F.binary_cross_entropy_with_logits(logits, ones)
        if penalised:
            (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            loss = loss + EVERY * GAMMA / 2 * gradient.pow(2).flatten(1).sum(1).mean()
        loss.backward()
        fake = generator(torch.randn(len(x), generator.latent_dim, device=x.device))
        F.binary_cross_entropy_with_logits(discriminator(fake.detach()), zeros).backward()
        of_discriminator.step()
        of_generator.zero_grad()
        F.binary_cross_entropy_with_logits(discriminator(fake), ones).backward()
        of_generator.step()
        steps += 1

    return step


def floor(generator: Generator, discriminator: nn.Module, *, lazily: bool, engine: Engine | None) -> Step:
    """The passes alone, and the optimizers.

    Args:
        generator: The generator.
        discriminator: The discriminator.
        lazily: Whether every 16th step has the penalty R1.
        engine: Whether to compile, and in which layout.
    """
    engine = engine or Engine()
    if engine.channels_last:
        for network in (generator, discriminator):
            network.to(memory_format=torch.channels_last)
    adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999), fused=True)
    optimizers = adam(generator.parameters()), adam(discriminator.parameters())
    fast_g, fast_d = (
        torch.compile(network, dynamic=False) if engine.compile else network for network in (generator, discriminator)
    )
    steps = 0

    def step(x: Tensor) -> None:
        nonlocal steps
        if engine.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        for optimizer in optimizers:
            optimizer.zero_grad()
        penalised = lazily and steps % EVERY == 0
        d_passes(generator, discriminator if penalised else fast_d, x, penalised=penalised)
        optimizers[1].step()
        discriminator.requires_grad_(False)
        g_passes(fast_g, fast_d, generator.latent_dim, x)
        discriminator.requires_grad_(True)
        optimizers[0].step()
        steps += 1

    return step


def d_passes(generator: Generator, discriminator: Callable[..., Tensor], x: Tensor, *, penalised: bool) -> None:
    """What a step of the discriminator must compute."""
    with torch.no_grad():
        fake = generator(torch.randn(len(x), generator.latent_dim, device=x.device))
    # no leaf: the counter of operations refuses gradients by leaves
    real = x.detach().requires_grad_(penalised).clone()
    logits = discriminator(real)
    loss = discriminator(fake).mean() - logits.mean()
    if penalised:
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
        loss = loss + gradient.square().sum()
    loss.backward()


def g_passes(generator: Callable[..., Tensor], frozen: Callable[..., Tensor], latent_dim: int, x: Tensor) -> None:
    """What a step of the generator must compute."""
    (-frozen(generator(torch.randn(len(x), latent_dim, device=x.device))).mean()).backward()


def count(generator: Generator, discriminator: Discriminator, x: Tensor, *, lazily: bool) -> tuple[float, float]:
    """Count the operations of the passes of the discriminator and of the generator in a step, on average.

    Args:
        generator: The generator.
        discriminator: The discriminator.
        x: Images ``(N, C, H, W)``.
        lazily: Whether every 16th step has the penalty R1.

    Returns:
        The operations of the discriminator, and those of the generator, wherever in the step they are.
    """

    def counted(run: Callable[[], None]) -> int:
        with FlopCounterMode(display=False) as counter:
            run()
        return counter.get_total_flops()

    z = torch.randn(len(x), generator.latent_dim, device=x.device)
    forward = counted(lambda: generator(z))
    of_generator = forward + counted(lambda: generator(z).sum().backward())
    whole = [counted(partial(d_passes, generator, discriminator, x, penalised=p)) - forward for p in (False, True)]
    leaf = x.detach().requires_grad_()
    discriminator.requires_grad_(False)
    frozen = counted(lambda: discriminator(leaf).sum().backward())
    discriminator.requires_grad_(True)
    share = 1 / EVERY if lazily else 0.0
    for network in (generator, discriminator):
        network.zero_grad()
    return frozen + (1 - share) * whole[0] + share * whole[1], float(of_generator)


if __name__ == "__main__":
    main()
