"""The course of a training, as the convergence monitor has seen it, and the judgement on it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_advreg.callbacks import convergence_rules as rules
from lightning_advreg.callbacks.convergence_measurements import Now, Seen
from lightning_advreg.callbacks.convergence_rules import Alarm, Look


class Course:
    """Looks and learning rates, by time.

    Attributes:
        history: What was seen under attack.
        good: The last look at which the network had not collapsed.
        rates: Learning rates of all parameter groups.
    """

    def __init__(self) -> None:
        self.history: list[Look] = []
        self.good: Look | None = None
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
            self.history.append(look)
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
        return alarms

    def go_back(self, now: Now) -> None:
        """Note that the network is that of the last good look again."""
        if self.history and self.history[-1].step == now.step:
            self.history.pop()
        if self.good is not None:
            again = dataclasses.replace(self.good, epoch=now.epoch, step=now.step, trained=now.trained)
            self.history.append(again)

    def judge_rates(self, now: Now, rates: Sequence[float], names: Sequence[str]) -> Alarm | None:
        """Add the learning rates of all parameter groups, of these names, and judge them."""
        if not self.rates or self.rates[-1] != list(rates):
            self.rates.append(list(rates))
        still = rules.unscheduled_groups(self.rates)
        return rules.unscheduled_group(now.epoch, now.step, [names[group] for group in still]) if still else None

    def state_dict(self) -> dict[str, Any]:
        """Give plain values."""
        return {
            "history": [look.state_dict() for look in self.history],
            "good": None if self.good is None else self.good.state_dict(),
            "rates": [list(row) for row in self.rates],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.history = [Look.from_state_dict(look) for look in state["history"]]
        self.good = None if state["good"] is None else Look.from_state_dict(state["good"])
        self.rates = [list(row) for row in state["rates"]]


def collapsed(alarms: Sequence[Alarm]) -> bool:
    """Say whether one of the alarms is cause to go back."""
    return any(alarm.name in (rules.CATASTROPHIC, rules.NON_FINITE) for alarm in alarms)
