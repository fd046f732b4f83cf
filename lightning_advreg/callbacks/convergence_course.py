"""The course of a training, as the convergence monitor has seen it, and the judgement on it."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl

from lightning_advreg.callbacks import convergence_rules as rules
from lightning_advreg.callbacks.convergence_look import Look, accuracy
from lightning_advreg.callbacks.convergence_measurements import Seen
from lightning_advreg.callbacks.convergence_moment import Now
from lightning_advreg.callbacks.convergence_rules import Alarm


class Course:
    """Looks and learning rates, by time.

    Attributes:
        history: What was seen under attack, as far as it can still decide something: looks of the last epochs, and
            older ones with the most images right.
        good: The last look at which the network had not collapsed.
        best: That at which it was most robust.
        rates: Learning rates of all parameter groups, as far as they tell which of these were ever changed.
    """

    def __init__(self) -> None:
        self.history: list[Look] = []
        self.good: Look | None = None
        self.best: Look | None = None
        self.rates: list[list[float]] = []

    def judge(self, now: Now, seen: Seen, *, judge_from: float) -> list[Alarm]:
        """Add a measurement, and give all alarms that it is cause for.

        Args:
            now: The moment of the measurement.
            seen: What it found.
            judge_from: Look for catastrophic overfitting after so many epochs.
        """
        clean, look = seen.clean, seen.look
        if not clean.finite:
            return [rules.non_finite_outputs(now.epoch, now.step)]
        found: list[Alarm | None] = []
        if look is not None:
            self.history = [*without_outdone(self.history, look.trained), look]
            found.append(rules.catastrophic_overfitting(self.history, judge_from=judge_from))
            found.append(rules.robust_overfitting(self.history))
        plateau = rules.start_plateau(
            now.epoch,
            now.step,
            trained=now.trained,
            loss=clean.loss,
            right=clean.right,
            images=clean.images,
            num_classes=clean.num_classes,
        )
        found.append(plateau)
        for flag in clean.signs:
            # a network with uniform outputs may have no gradient, and hides nothing
            if plateau is None or flag.name != "zero_gradients":
                found.append(rules.gradient_masking(now.epoch, now.step, flag.name, flag.message))
        alarms = [alarm for alarm in found if alarm is not None]
        if look is not None and not collapsed(alarms):
            self.good = look
            if self.best is None or _better(look, self.best):
                self.best = look
        return alarms

    def go_back(self, now: Now, *, to_best: bool = False) -> None:
        """Note that the network is that of the last good look again, or that of the most robust one."""
        if self.history and self.history[-1].step == now.step:
            self.history.pop()
        look = self.best if to_best else self.good
        if look is not None:
            self.good = dataclasses.replace(look, epoch=now.epoch, step=now.step, trained=now.trained)
            self.history.append(self.good)

    def judge_rates(self, now: Now, rates: Sequence[float], names: Sequence[str]) -> Alarm | None:
        """Add the learning rates of all parameter groups, of these names, and judge them."""
        if news_in(rates, self.rates):
            self.rates.append(list(rates))
        still = rules.unscheduled_groups(self.rates)
        return rules.unscheduled_group(now.epoch, now.step, [names[group] for group in still]) if still else None

    def state_dict(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            "history": [look.state_dict() for look in self.history],
            "good": None if self.good is None else self.good.state_dict(),
            "best": None if self.best is None else self.best.state_dict(),
            "rates": [list(row) for row in self.rates],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.history = [Look.from_state_dict(look) for look in state["history"]]
        self.good, self.best = (
            None if state[name] is None else Look.from_state_dict(state[name]) for name in ("good", "best")
        )
        self.rates = [list(row) for row in state["rates"]]


def without_outdone(history: Sequence[Look], trained: float) -> list[Look]:
    """Leave out looks that no rule will ask about any more, so that a long run does not pile them up.

    Looks of the last epochs stay. Of the older ones, rules ask for the most robust one alone, on as many images as the
    later looks were on: for each number of images that is the first of those with the most of them right.

    Args:
        history: Looks in the order of time.
        trained: How many epochs have been trained.
    """
    # one look more than is older: rules reach back to the last one before their epochs
    old = sum(look.trained <= trained - rules.DECLINE_EPOCHS - 1e-6 for look in history) - 1
    if old < 2:
        return list(history)
    bests: set[int] = set()
    counts = [list(itertools.accumulate(look.pgd)) for look in history[:old]]
    for images in range(max(map(len, counts))):
        bests.add(max(range(old), key=lambda index: counts[index][images] if images < len(counts[index]) else -1))
    return [*(history[index] for index in sorted(bests)), *history[old:]]


def news_in(rates: Sequence[float], known: Sequence[Sequence[float]]) -> bool:
    """Tell whether learning rates show for the first time that a group was added, or that one was changed.

    Args:
        rates: The learning rates of all groups.
        known: Those of earlier times that did.

    Example:
        >>> news_in([0.1, 0.1], []), news_in([0.1, 0.1], [[0.1, 0.1]]), news_in([0.05, 0.1], [[0.1, 0.1]])
        (True, False, True)
        >>> news_in([0.01, 0.1], [[0.1, 0.1], [0.05, 0.1]])
        False
    """
    same = list(itertools.takewhile(lambda row: len(row) == len(rates), reversed(known)))
    if not same:
        return True
    return any(
        all(row[group] == same[-1][group] for row in same) and rate != same[-1][group]
        for group, rate in enumerate(rates)
    )


def learning_rates(trainer: pl.Trainer) -> tuple[list[float], list[str]]:
    """Give the learning rate of every parameter group, and what to call the group."""
    groups = [
        (float(group["lr"]), f"parameter group {index} of {type(optimizer).__name__}")
        for optimizer in trainer.optimizers
        for index, group in enumerate(optimizer.param_groups)
    ]
    return [rate for rate, _ in groups], [f"{name} (learning rate {rate:g})" for rate, name in groups]


def collapsed(alarms: Sequence[Alarm]) -> bool:
    """Say whether one of the alarms is cause to go back."""
    return any(alarm.name in (rules.CATASTROPHIC, rules.NON_FINITE) for alarm in alarms)


def _better(look: Look, best: Look) -> bool:
    # more images say more; on fewer, those that both saw decide
    shared = min(len(look.pgd), len(best.pgd))
    return len(look.pgd) > len(best.pgd) or accuracy(look.pgd[:shared]) > accuracy(best.pgd[:shared])
