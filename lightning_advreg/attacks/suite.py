"""Attacks one after another, each on the images that withstood those before it."""

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor

from lightning_advreg.attacks.acceleration import Acceleration, SearchModel, search_model
from lightning_advreg.attacks.base import Attack, SearchAttack
from lightning_advreg.attacks.batch_size import fitting_batch_size, halving
from lightning_advreg.attacks.ledger import BatchResult, Ledger, fingerprint
from lightning_advreg.attacks.long import LongAttack
from lightning_advreg.attacks.model_state import Model, borrowed, device_of
from lightning_advreg.attacks.progress_bar import ProgressBar
from lightning_advreg.attacks.randomness import seeded, stream_of
from lightning_advreg.attacks.ranks import Alone
from lightning_advreg.attacks.threat import ball, per_image
from lightning_advreg.checks import check_batch, check_types

_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Outcome:
    """What a suite of attacks did to every image.

    Attributes:
        x_adv: Attacked images, with the shape, dtype and device of ``x``; clean ones where nothing was found.
        stage: Which attack each image fell to, int64 of shape ``(N,)`` on the CPU: -1 if it was wrong without any, the
            attack's place in ``names``, or ``len(names)`` if it withstood them all.
        names: The attacks, in their order.
        seconds: How long each took, summed over processes, and over the runs of an evaluation that was interrupted.
    """

    x_adv: Tensor
    stage: Tensor
    names: tuple[str, ...]
    seconds: tuple[float, ...]

    @property
    def robust(self) -> Tensor:
        """Which images are classified correctly whatever the attack, bool of shape ``(N,)``, on the CPU."""
        return self.stage == len(self.names)

    @property
    def clean(self) -> Tensor:
        """Which images are classified correctly without an attack, bool of shape ``(N,)``, on the CPU."""
        return self.stage >= 0

    def standing_after(self, name: str) -> int:
        """Count the images that withstood this attack and all before it."""
        return int((self.stage > self.names.index(name)).sum())


def attack_in_stages(
    model: Model,
    x: Tensor,
    y: Tensor,
    stages: Mapping[str, Attack],
    *,
    targeted: bool = False,
    seed: int | None = 0,
    batch_size: int | None = None,
    progress: bool = False,
    checkpoint: str | PathLike[str] | None = None,
    acceleration: Acceleration | None = Acceleration(),
    ranks: Alone | None = None,
) -> Outcome:
    """Attack images in stages, each on the survivors of those before it.

    An image falls where the network itself, in its own precision, gets an image wrong that lies in [0, 1] and, for the
    attacks of this library, within the budget. Survivors are dealt out anew before every stage, in batches of equal
    size, to all processes. A batch draws random numbers from a stream of its own. So the result depends on the seed and
    the batch size alone: not on the number of processes, nor on whether the evaluation was interrupted.

    Args:
        model: From images in [0, 1] to logits; it is left as it was found.
        x: Images in [0, 1], of shape ``(N, C, H, W)``, on the CPU or on the model's device.
        y: Labels (targets, if ``targeted``), integers of shape ``(N,)``.
        stages: The attacks by name, in order.
        targeted: Whether ``y`` are classes to reach.
        seed: Of the random numbers; None draws from the default generators.
        batch_size: Images attacked at once; None chooses what fits the memory. Halved where it does not fit after all.
        progress: Show a bar for each attack, in the first process.
        checkpoint: A folder where progress is saved after every batch, and from which the same call continues.
        acceleration: How the network is made fast for the search; None searches on the network itself.
        ranks: The processes that share the work, all of which call this with the same arguments; None for one alone.

    Raises:
        TypeError: If ``x`` is not floating point or ``y`` is not integer.
        ValueError: If pixels or labels are out of range, a batch size is below 1, or ``checkpoint`` holds another
            evaluation.

    Example:
        >>> from lightning_advreg.attacks import FGSM, PGD
        >>> model, x = torch.nn.Flatten(), torch.tensor([[[[0.5, 0.3]]], [[[0.9, 0.1]]], [[[0.1, 0.9]]]])
        >>> stages = {"fgsm": FGSM(eps=0.2), "pgd": PGD(eps=0.2, step_size=0.1)}
        >>> attack_in_stages(model, x, torch.tensor([0, 0, 0]), stages).stage
        tensor([ 0,  2, -1])
    """
    check_types(x, y)
    if not stages:
        raise ValueError("stages must name at least one attack, such as {'pgd': PGD()}, got none.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or None to choose what fits, got {batch_size}.")
    ranks = Alone() if ranks is None else ranks
    ledger = Ledger(checkpoint, {} if checkpoint is None else fingerprint(model, x, y, stages, seed))
    with borrowed(model):
        device = device_of(model, x)
        search = search_model(model, acceleration, x[:8].to(device))
        if batch_size is None:
            chosen = ledger.batch_size or fitting_batch_size(search, x, device) if ranks.rank == 0 else 0
            batch_size = ranks.gather(chosen)[0]
        with torch.no_grad(), seeded(seed, device):
            check_batch(x, y, num_classes=search.confirm(x[:1].to(device)).shape[-1])
        if ranks.rank == 0:
            ledger.open(batch_size)
        return _Run(search, x, y, targeted, seed, batch_size, device, ledger, ranks, progress).through(stages)


def evaluate(attack: LongAttack, model: Model, x: Tensor, y: Tensor, ranks: Alone | None = None) -> Outcome:
    """Run the stages of an attack on any number of images, as its own settings say.

    Args:
        attack: An attack of several stages, such as ``AutoAttack``, or of one.
        model: From images in [0, 1] to logits.
        x: Images in [0, 1], of shape ``(N, C, H, W)``.
        y: Labels (targets, if the attack is targeted), integers of shape ``(N,)``.
        ranks: The processes that share the work.

    Returns:
        What each stage did.
    """
    check_types(x, y)
    return attack_in_stages(
        model,
        x,
        y,
        attack.stages(count_classes(model, x, attack.seed)),
        targeted=attack.targeted,
        seed=attack.seed,
        batch_size=attack.batch_size,
        progress=attack.progress,
        checkpoint=attack.checkpoint,
        acceleration=attack.acceleration,
        ranks=ranks,
    )


def count_classes(model: Model, x: Tensor, seed: int | None) -> int:
    """Count the logits that a model gives, in one pass over one image.

    Args:
        model: From images to logits; it is left as it was found.
        x: Images, of shape ``(N, ...)``, on any device.
        seed: Of the random numbers that a model may draw; None draws from the caller's generators.
    """
    device = device_of(model, x)
    with borrowed(model), torch.no_grad(), seeded(seed, device):
        return model(x[:1].to(device)).shape[-1]


@dataclass
class _Run:
    search: SearchModel
    x: Tensor
    y: Tensor
    targeted: bool
    seed: int | None
    batch_size: int
    device: torch.device
    ledger: Ledger
    ranks: Alone
    progress: bool

    def __post_init__(self) -> None:
        self.fits = self.batch_size

    def through(self, stages: Mapping[str, Attack]) -> Outcome:
        x_adv = self.x.detach().clone()
        standing = self._standing_without_attack(max(map(_draws, stages.values())))
        stage = torch.where(standing, len(stages), -1)
        seconds: list[float] = []
        for place, (name, attack) in enumerate(stages.items()):
            left = standing.nonzero().squeeze(1)
            seconds.append(0.0)
            for result in self._stage(place, name, attack, left):
                x_adv[result.fallen.to(x_adv.device)] = result.x_adv.to(x_adv.device)
                stage[result.fallen] = place
                standing[result.fallen] = False
                seconds[-1] += result.seconds
        return Outcome(x_adv, stage, tuple(stages), tuple(seconds))

    def _standing_without_attack(self, draws: int) -> Tensor:
        correct = torch.zeros(len(self.x), dtype=torch.bool)

        def classify(rows: Tensor) -> None:
            with seeded(stream_of(self.seed, -1, int(rows[0])), self.device):
                logits = self._logits(self._images(rows), draws)
            correct[rows] = ~self._hits(logits, rows).cpu()

        for _, rows in self._deal(torch.arange(len(self.x))):
            self.fits = halving(classify, rows, self.fits)
        return torch.stack(self.ranks.gather(correct)).any(0)

    def _stage(self, place: int, name: str, attack: Attack, left: Tensor) -> Iterator[BatchResult]:
        if self.ranks.size == 1:
            # one at a time: together they would take the memory of the images once more
            yield from self._mine(place, name, attack, left)
        else:
            for results in self.ranks.gather(list(self._mine(place, name, attack, left))):
                yield from results

    def _mine(self, place: int, name: str, attack: Attack, left: Tensor) -> Iterator[BatchResult]:
        mine = self._deal(left)
        folder = f"{place}_{name}"
        images = sum(len(rows) for _, rows in mine)
        shown = self.progress and self.ranks.rank == 0
        bar = ProgressBar(name, images, len(left), len(self.x), shown=shown)
        try:
            for number, rows in mine:
                result = self.ledger.read(folder, number)
                bar.begin(len(rows))
                reported = 0
                if result is None:
                    result, reported = self._attack(attack, place, rows, bar)
                    self.ledger.write(folder, number, result)
                bar.end(len(result.fallen), reported)
                yield result
        finally:
            bar.close()

    def _attack(self, attack: Attack, place: int, rows: Tensor, bar: ProgressBar) -> tuple[BatchResult, int]:
        parts: list[tuple[Tensor, Tensor]] = []
        reported = 0

        def run(part: Tensor) -> None:
            nonlocal reported
            counted = 0

            def watch(fallen: int) -> None:
                nonlocal counted
                counted += fallen
                bar.fall(fallen)

            self.search.watch = watch
            try:
                parts.append(self._fallen(attack, place, part))
            except RuntimeError:
                bar.fall(-counted)
                raise
            finally:
                self.search.watch = None
            reported += counted

        started = time.perf_counter()
        self.fits = halving(run, rows, self.fits)
        fallen, x_adv = (torch.cat(list(kind)) for kind in zip(*parts, strict=True))
        return BatchResult(fallen, x_adv, time.perf_counter() - started), reported

    def _fallen(self, attack: Attack, place: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self._images(rows), self.y[rows.to(self.y.device)].to(self.device)
        asked: Model = self.search.original
        if isinstance(attack, SearchAttack):
            # attacks of others may want the nn.Module, or another mode
            asked = self.search if attack.model_mode == "eval" else asked
            attack = dataclasses.replace(attack, seed=None, check=False)
        with seeded(stream_of(self.seed, place, int(rows[0])), self.device):
            if isinstance(attack, SearchAttack):
                # past the call of a LongAttack, which would begin an evaluation of its own
                x_adv = SearchAttack.__call__(attack, asked, x, y)
            else:
                x_adv = attack(asked, x, y)
            logits = self._logits(x_adv, _draws(attack))
        fallen = self._hits(logits, rows) & _feasible(attack, x, x_adv)
        return rows[fallen.cpu()], x_adv[fallen].detach().cpu()

    def _logits(self, x: Tensor, draws: int) -> Tensor:
        logits = self.search.confirm(x)
        for _ in range(draws - 1):
            logits = logits + self.search.confirm(x)
        return logits

    def _hits(self, logits: Tensor, rows: Tensor) -> Tensor:
        hit = logits.argmax(1) == self.y[rows.to(self.y.device)].to(logits.device)
        return hit if self.targeted else ~hit

    def _images(self, rows: Tensor) -> Tensor:
        return self.x[rows.to(self.x.device)].detach().to(self.device)

    def _deal(self, rows: Tensor) -> list[tuple[int, Tensor]]:
        batches = enumerate(rows.split(self.batch_size)) if len(rows) else iter(())
        return [(number, batch) for number, batch in batches if number % self.ranks.size == self.ranks.rank]


def _draws(attack: Attack) -> int:
    return getattr(attack, "draws", 1) if isinstance(attack, SearchAttack) else 1


def _feasible(attack: Attack, x: Tensor, x_adv: Tensor) -> Tensor:
    inside = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    radius = getattr(attack, "radius", None)
    if not isinstance(attack, SearchAttack) or radius is None:
        return inside
    exact = x.double() if x.device.type != "mps" else x.float()
    distance = ball(attack.norm, exact, radius).distance(x_adv.to(exact))
    return inside & (distance <= per_image(radius, exact).flatten() * (1 + _TOLERANCE) + 1e-6)
