"""The whole evaluation of one network on one set of images."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from torch import Tensor

from lightning_advreg.attacks import (
    Acceleration,
    Alone,
    Attack,
    AutoAttack,
    LongAttack,
    Model,
    Outcome,
    SearchAttack,
    attack_in_stages,
    count_classes,
    describe_attack,
)
from lightning_advreg.checks import check_types
from lightning_advreg.evaluation.attacks import budget_to_look_at, named_attacks, stopping_at_success
from lightning_advreg.evaluation.curve import CurveSettings
from lightning_advreg.evaluation.masking import gap_flags, masking_flags
from lightning_advreg.evaluation.report import AttackResult, CurveResult, Rate, RobustnessReport
from lightning_advreg.metrics import ClasswiseAccuracy, PerturbationSize

_CHUNK = 512


def evaluate_robustness(
    model: Model,
    x: Tensor,
    y: Tensor,
    attacks: Attack | Mapping[str, Attack],
    *,
    curve: CurveSettings | None = None,
    masking: bool = True,
    seed: int | None = 0,
    batch_size: int | None = None,
    progress: bool = False,
    checkpoint: str | PathLike[str] | None = None,
    acceleration: Acceleration | None = Acceleration(),
    ranks: Alone | None = None,
) -> RobustnessReport:
    """Attack a network with several attacks, and say what is left and whether to believe it.

    Every attack attacks all images that are right without it, and an image counts as robust if it is right both ways.
    Images leave an attack as soon as they fall: an attack that would go on and might lose a success again
    (``stop_at_success=False``) runs as one that does not.

    What an attack says of its own ``seed`` and ``batch_size`` comes first. Of its ``progress``, ``checkpoint`` and
    ``acceleration`` the evaluation's take the place.

    Args:
        model: From images in [0, 1] to logits; it is left as it was found.
        x: Images in [0, 1], of shape ``(N, C, H, W)``, on the CPU or on the model's device.
        y: Labels, integers of shape ``(N,)``.
        attacks: Attacks by name; a single one goes by the name of its class in lower case. Any callable
            ``attack(model, x, y) -> x_adv`` will do.
        curve: Budgets at which to measure accuracy too.
        masking: Look for signs of gradient masking, in the norm and at the budget of the last attack that has one.
        seed: Of attacks that have none of their own; None draws from the default generators.
        batch_size: Images attacked at once; None chooses what fits the memory.
        progress: Show a bar for each attack.
        checkpoint: A folder where progress is saved after every batch, and from which the same call continues.
        acceleration: How the network is made fast for the search; successes are confirmed on the network itself.
        ranks: The processes that share the work; None for this one alone.

    Returns:
        The report.

    Raises:
        TypeError: If ``x`` is not floating point, ``y`` is not integer, or an attack cannot be called.
        ValueError: If there is no attack, one is targeted, a name is not plain text, no attack has a budget to look
            for masking at, pixels or labels are out of range, or ``checkpoint`` holds another evaluation.

    Example:
        >>> import torch
        >>> from lightning_advreg.attacks import FGSM, PGD
        >>> model, x = torch.nn.Flatten(), torch.tensor([[[[0.5, 0.3]]], [[[0.9, 0.1]]]])
        >>> attacks = {"fgsm": FGSM(eps=0.05), "pgd": PGD(eps=0.2, step_size=0.1)}
        >>> report = evaluate_robustness(model, x, torch.tensor([0, 0]), attacks, masking=False)
        >>> report.clean.accuracy, report.attacks["fgsm"].robust.accuracy, report.worst_case.accuracy
        (1.0, 1.0, 0.5)
    """
    named = {name: stopping_at_success(attack) for name, attack in named_attacks(attacks).items()}
    budget = budget_to_look_at(named) if masking else None
    check_types(x, y)
    num_classes = count_classes(model, x, seed)

    def run(attack: Attack, stages: Mapping[str, Attack], *folder: str) -> Outcome:
        own = attack.seed if isinstance(attack, SearchAttack) else None
        size = attack.batch_size if isinstance(attack, LongAttack) else None
        return attack_in_stages(
            model,
            x,
            y,
            stages,
            seed=seed if own is None else own,
            batch_size=batch_size if size is None else size,
            progress=progress,
            checkpoint=None if checkpoint is None else Path(checkpoint, *folder),
            acceleration=acceleration,
            ranks=ranks,
        )

    results: dict[str, AttackResult] = {}
    worst: _WorstCase | None = None
    for name, attack in named.items():
        if isinstance(attack, AutoAttack):
            attack.warn_if_random(model, x)
        stages = attack.stages(num_classes) if isinstance(attack, LongAttack) else {name: attack}
        outcome = run(attack, stages, "attacks", name)
        results[name] = _result(attack, outcome, x)
        if worst is None:
            worst = _WorstCase(outcome.clean, outcome.robust, outcome.x_adv)
        worst.add(outcome)
    assert worst is not None
    drawn = None if curve is None else _curve(curve, lambda stages: run(curve.attack, stages, "curve"))
    flags = None
    if budget is not None:
        flags = masking_flags(
            model,
            x,
            y,
            norm=budget[0],
            eps=budget[1],
            seed=seed,
            batch_size=batch_size,
            progress=progress,
            checkpoint=None if checkpoint is None else Path(checkpoint, "masking"),
            acceleration=acceleration,
            ranks=ranks,
        )
        flags += gap_flags({name: (named[name], result.robust.accuracy) for name, result in results.items()})
    by_class = (_by_class(correct, y, num_classes) for correct in (worst.clean, worst.robust))
    return RobustnessReport(
        clean=_rate(worst.clean),
        attacks=results,
        worst_case=_rate(worst.robust),
        per_class=tuple(zip(*by_class, strict=True)),
        curve=drawn,
        flags=flags,
        x_adv=worst.x_adv,
    )


@dataclass
class _WorstCase:
    """What attacks did together: bool masks on the CPU, and images of the first attack that each fell to."""

    clean: Tensor
    robust: Tensor
    x_adv: Tensor

    def add(self, outcome: Outcome) -> None:
        fell = self.robust & ~outcome.robust
        self.robust = self.robust & outcome.robust
        fell = fell.to(self.x_adv.device)
        self.x_adv[fell] = outcome.x_adv[fell]


def _result(attack: Attack, outcome: Outcome, x: Tensor) -> AttackResult:
    size = PerturbationSize(attack.norm if isinstance(attack, SearchAttack) else "linf")
    # every process has the whole outcome already
    size.distributed_available_fn = lambda: False
    right = outcome.clean.nonzero().squeeze(1)
    # in parts: a copy of all images would take their memory once more
    for first in range(0, len(right), _CHUNK):
        rows = right[first : first + _CHUNK]
        there = rows.to(x.device)
        size.update(x[there].cpu(), outcome.x_adv[there].cpu(), ~outcome.robust[rows])
    with warnings.catch_warnings():
        # of no images at all, whose statistics are NaN
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric PerturbationSize")
        sizes = {name: value.item() for name, value in size.compute().items()}
    images = len(x)
    return AttackResult(
        attack=describe_attack(attack),
        robust=_rate(outcome.robust),
        stages={name: Rate(outcome.standing_after(name), images) for name in outcome.names},
        perturbation=sizes,
        seconds=dict(zip(outcome.names, outcome.seconds, strict=True)),
    )


def _curve(curve: CurveSettings, run: Callable[[Mapping[str, Attack]], Outcome]) -> CurveResult:
    stages = curve.stages()
    outcome = run(stages)
    correct = [int(outcome.clean.sum())] if 0 in curve.budgets else []
    correct += [outcome.standing_after(name) for name in stages]
    return CurveResult(
        attack=describe_attack(curve.attack),
        norm=curve.norm,
        eps=curve.budgets,
        rates=tuple(Rate(count, len(outcome.stage)) for count in correct),
        seconds=sum(outcome.seconds),
    )


def _rate(correct: Tensor) -> Rate:
    return Rate(int(correct.sum()), len(correct))


def _by_class(correct: Tensor, y: Tensor, num_classes: int) -> list[Rate]:
    metric = ClasswiseAccuracy(num_classes)
    metric.update(correct, y.cpu().long())
    return [Rate(c, t) for c, t in zip(metric.correct.tolist(), metric.total.tolist(), strict=True)]
