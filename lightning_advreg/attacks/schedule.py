"""An attack that changes during training."""

import math
from dataclasses import dataclass

from lightning_advreg.attacks.base import Attack
from lightning_advreg.attacks.variants import scaled, with_steps
from lightning_advreg.schedules import Ramp, Schedule, check_schedule
from lightning_advreg.values import Number, to_float


@dataclass(frozen=True, kw_only=True)
class AttackSchedule:
    """How strong the training attack is at each moment: its budget, its number of steps, or both.

    The attack given to training is the one at factor 1. At factor ``f`` its eps and step sizes are ``f`` times as
    large. Another number of steps leaves the size of each step as it is, so that few steps may not reach the edge of
    the ball. Where the factor or the number of steps is 0, images stay as they are: training is clean at that moment,
    and no attack of this library then asks the network about them, but for ``NFGSM`` and what ``WorstOf`` compares.

    A budget that grows from 0 (``eps_factor=Ramp(epochs=5)``, for which ``eps_warmup_epochs=5`` is short) leads
    training past the plateau that a large budget may begin with. A number of steps that grows is curriculum adversarial
    training (Cai et al. 2018), with the epochs of its lessons given beforehand; in the paper a lesson ends when the
    network has learnt to withstand the attack of the moment, and its batches mix in the weaker attacks of lessons past.

    Args:
        eps_factor: What to multiply the attack's eps and step sizes by, at least 0. Above 1 the attack is stronger than
            given. None leaves them alone.
        steps: The attack's number of steps, at least 0, rounded to the nearest integer (halves up). None leaves it
            alone.

    Raises:
        TypeError: If an argument is not a schedule.
        ValueError: If both are None, or a value is below 0.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> from lightning_advreg.schedules import Piecewise
        >>> lessons = AttackSchedule(steps=Piecewise(milestones=[(0, 0), (2, 1), (4, 3), (8, 7)]))
        >>> lessons.at(PGD(eps=0.3, step_size=0.1, steps=10), epoch=5.5).steps
        3
        >>> growing = AttackSchedule(eps_factor=Ramp(epochs=10))
        >>> growing.at(PGD(eps=0.3, step_size=0.1, steps=10), epoch=5).eps
        0.15
    """

    eps_factor: Schedule | None = None
    steps: Schedule | None = None

    def __post_init__(self) -> None:
        if self.eps_factor is None and self.steps is None:
            raise ValueError("AttackSchedule schedules nothing; give it eps_factor, steps or both.")
        for name in ("eps_factor", "steps"):
            if getattr(self, name) is not None:
                check_schedule(getattr(self, name), name, minimum=0)

    def check(self, attack: Attack) -> None:
        """Refuse an attack that cannot follow this schedule, before training.

        Raises:
            TypeError: If the attack has no budget to scale or no number of steps, and this schedule needs it.
        """
        rests = self.steps is not None and self.steps.bounds is not None and self.steps.bounds[0] < 0.5
        if self.eps_factor is not None or rests:
            scaled(attack, 0.5)
        if self.steps is not None:
            with_steps(attack, 1)

    def at(self, attack: Attack, epoch: float) -> Attack:
        """Give the attack of a moment of training.

        Args:
            attack: The attack at factor 1.
            epoch: The number of epochs before this moment, with its fraction.

        Raises:
            TypeError: If the attack cannot follow this schedule.
            ValueError: If a schedule of one's own gives a value below 0.
        """
        values = self.values(epoch)
        factor, steps = values.get("eps_factor", 1.0), values.get("attack_steps")
        if steps == 0:
            return scaled(attack, 0.0)
        if steps is not None:
            attack = with_steps(attack, int(steps))
        return attack if factor == 1 else scaled(attack, factor)

    def values(self, epoch: float) -> dict[str, float]:
        """Give what is scheduled, ``eps_factor`` and ``attack_steps``, at a moment of training.

        Args:
            epoch: The number of epochs before this moment, with its fraction.

        Raises:
            ValueError: If a schedule of one's own gives a value below 0.
        """
        values: dict[str, float] = {}
        if self.eps_factor is not None:
            values["eps_factor"] = to_float(self.eps_factor.value(epoch), f"eps_factor at epoch {epoch:g}", minimum=0)
        if self.steps is not None:
            steps = to_float(self.steps.value(epoch), f"steps at epoch {epoch:g}", minimum=0)
            values["attack_steps"] = float(math.floor(steps + 0.5))
        return values


def given_schedule(schedule: AttackSchedule | None, eps_warmup_epochs: Number, attack: Attack) -> AttackSchedule | None:
    """Give the schedule of an attack from the two arguments in which it may be written.

    Args:
        schedule: The schedule, or None.
        eps_warmup_epochs: The short form: let eps and step sizes grow linearly from 0 over so many epochs.
        attack: The attack, which must be able to follow the schedule.

    Returns:
        The schedule, or None where nothing changes.

    Raises:
        TypeError: If ``schedule`` is something else, or the attack cannot follow it.
        ValueError: If ``eps_warmup_epochs`` is negative, or both are given.
    """
    epochs = to_float(eps_warmup_epochs, "eps_warmup_epochs", minimum=0)
    if schedule is not None and not isinstance(schedule, AttackSchedule):
        raise TypeError(
            f"attack_schedule must be an AttackSchedule, such as AttackSchedule(eps_factor=Ramp(epochs=5)), got "
            f"{schedule!r}."
        )
    if schedule is not None and epochs > 0:
        raise ValueError(
            f"eps_warmup_epochs={epochs:g} and attack_schedule={schedule!r} both say how the attack grows; give the "
            f"schedule alone. The first is short for AttackSchedule(eps_factor=Ramp(epochs={epochs:g}))."
        )
    if epochs > 0:
        schedule = AttackSchedule(eps_factor=Ramp(epochs=epochs))
    if schedule is not None:
        # at once, rather than in the first step
        schedule.check(attack)
    return schedule
