"""What can be done in the middle of a training that goes wrong."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from lightning_advreg.attacks import PGD, Attack, BoundedAttack
from lightning_advreg.attacks.nfgsm import NFGSM
from lightning_advreg.callbacks.convergence_rules import CATASTROPHIC, NON_FINITE, PLATEAU, ROBUST, UNSCHEDULED, Alarm
from lightning_advreg.callbacks.convergence_snapshot import Snapshot
from lightning_advreg.callbacks.convergence_subject import attack_budget, attack_owner

ActionName: TypeAlias = Literal["warn", "stop", "rollback", "lower_lr", "pgd2", "nfgsm"]
"""What to do at an alarm, by name."""

Action: TypeAlias = ActionName | Attack
"""What to do at an alarm; an attack replaces that of the module."""

_BACK = (CATASTROPHIC, NON_FINITE)
_FACTOR = 0.1
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
_SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class Answer(NamedTuple):
    """What was done about an alarm.

    Attributes:
        done: Sentences on it.
        went_back: Whether the weights are those of a good moment again.
        stopped: Whether training is to end.
    """

    done: tuple[str, ...]
    went_back: bool
    stopped: bool


class Repairs:
    """What to do at alarms.

    Args:
        action: One action, or several, which happen together.

    Attributes:
        actions: The actions, without ``warn``.
        snapshot: The last good moment, where ``rollback`` is among them.
        best: The most robust moment, where ``stop`` is among them too.
        replaced: Whether the module's attack was replaced.

    Raises:
        TypeError: If an action is neither a name nor an attack.
        ValueError: If a name is unknown, or two attacks would replace that of the module.
    """

    def __init__(self, action: Action | Sequence[Action]) -> None:
        # a text is a sequence too, and a name
        given: list[Action] = [action] if isinstance(action, str) or not isinstance(action, Sequence) else [*action]
        for one in given:
            if isinstance(one, str) and one not in get_args(ActionName):
                raise ValueError(f"action must be one of {', '.join(get_args(ActionName))}, or an attack, got {one!r}.")
            if not isinstance(one, str) and not callable(one):
                raise TypeError(f"action must be a name such as 'rollback', or an attack, got {one!r}.")
        self.actions: list[Action] = [one for one in given if one != "warn"]
        self._attacks = [one for one in self.actions if not isinstance(one, str) or one in ("pgd2", "nfgsm")]
        if len(self._attacks) > 1:
            raise ValueError(f"one attack at most can replace that of the module, got {self._attacks}; leave one.")
        self.snapshot: Snapshot | None = None
        self.best: Snapshot | None = None
        self.replaced = False

    @property
    def rolls_back(self) -> bool:
        """Whether snapshots are needed."""
        return "rollback" in self.actions

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the actions are possible here.

        Raises:
            TypeError: If the module's attack is to be replaced and cannot be.
            ValueError: If weights are to be rolled back that lie in parts on several devices, or that Lightning's
                ``WeightAveraging`` exchanges during validation.
        """
        owner = attack_owner(trainer, pl_module)
        if self._attacks and not callable(getattr(owner, "use_attack", None)):
            raise TypeError(
                f"action {self._attacks[0]!r} replaces the training attack, and {type(owner).__name__} has no "
                "method `use_attack(attack)`; train an AdversarialClassifier, or use action='rollback' or 'stop'."
            )
        if self._attacks and isinstance(self._attacks[0], str):
            self._replacement(owner)
        if self.rolls_back and isinstance(trainer.strategy, _SHARDED):
            raise ValueError(
                f"action 'rollback' cannot collect weights that {type(trainer.strategy).__name__} has distributed; use "
                "strategy='ddp', or action='stop'."
            )
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        averaging = [type(callback).__name__ for callback in callbacks if isinstance(callback, WeightAveraging)]
        if self.rolls_back and averaging:
            raise ValueError(
                f"action 'rollback' cannot bring back the average that {averaging[0]} keeps, which takes the place of "
                "the weights during validation; use lightning_advreg's WeightAverage instead, or action='stop'."
            )

    def keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule, label: str, *, best: bool = False) -> None:
        """Remember the present moment as a good one, or even the most robust one, if that is needed."""
        if self.rolls_back:
            self.snapshot = Snapshot.take(trainer, pl_module, label)
            if best and "stop" in self.actions:
                self.best = self.snapshot

    def resume(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the attack again, where a checkpoint says that it was."""
        if self.replaced and self._attacks:
            owner = attack_owner(trainer, pl_module)
            owner.use_attack(self._replacement(owner))

    def act(self, trainer: pl.Trainer, pl_module: pl.LightningModule, alarm: Alarm) -> Answer:
        """Do what helps against an alarm.

        ``stop`` answers every alarm but that of a group without schedule. ``rollback`` answers catastrophic overfitting
        and losses that are not finite, with the last good moment; beside ``stop``, also robust overfitting, with the
        most robust one. ``lower_lr`` answers the first two and the starting plateau, and another attack catastrophic
        overfitting alone, once.
        """
        done: list[str] = []
        # to train on from the most robust moment would lead to the same end
        snapshot = self.best if alarm.name == ROBUST else self.snapshot if alarm.name in _BACK else None
        if snapshot is not None:
            snapshot.restore(trainer, pl_module)
            done.append(f"Went back to {snapshot.label}.")
        if "lower_lr" in self.actions and alarm.name in (*_BACK, PLATEAU):
            lower_learning_rates(trainer)
            done.append(f"Multiplied the learning rates by {_FACTOR:g}.")
        if self._attacks and alarm.name == CATASTROPHIC and not self.replaced:
            owner = attack_owner(trainer, pl_module)
            replacement = self._replacement(owner)
            owner.use_attack(replacement)
            self.replaced = True
            done.append(f"Training goes on with {replacement!r}.")
        stopped = "stop" in self.actions and alarm.name != UNSCHEDULED
        if stopped:
            trainer.should_stop = True
            done.append("Training stops.")
        return Answer(tuple(done), snapshot is not None, stopped)

    def state_dict(self) -> dict[str, Any]:
        """Give plain values and tensors."""
        kept = {"snapshot": self.snapshot, "best": None if self.best is self.snapshot else self.best}
        states = {name: None if moment is None else moment.state_dict() for name, moment in kept.items()}
        # one moment that is both is stored once
        return {**states, "last_is_best": self.best is self.snapshot, "replaced": self.replaced}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        kept = {name: state[name] for name in ("snapshot", "best")}
        moments = {name: None if one is None else Snapshot.from_state_dict(one) for name, one in kept.items()}
        self.snapshot = moments["snapshot"]
        self.best = self.snapshot if state["last_is_best"] else moments["best"]
        self.replaced = state["replaced"]

    def _replacement(self, owner: object) -> Attack:
        chosen = self._attacks[0]
        if not isinstance(chosen, str):
            return chosen
        attack = getattr(owner, "attack", None)
        budget = attack_budget(owner)
        if budget is None:
            raise ValueError(
                f"action {chosen!r} takes its budget from the training attack, and {type(attack).__name__} "
                "has none; give an attack, such as PGD(eps=8/255, step_size=4/255, steps=2)."
            )
        norm, eps = budget
        loss = attack.loss if isinstance(attack, BoundedAttack) else "ce"
        mode = attack.model_mode if isinstance(attack, BoundedAttack) else "eval"
        if chosen == "nfgsm":
            return NFGSM(norm=norm, eps=eps, loss=loss, model_mode=mode)
        return PGD(norm=norm, eps=eps, step_size=eps / 2, steps=2, loss=loss, model_mode=mode)


def lower_learning_rates(trainer: pl.Trainer, factor: float = _FACTOR) -> None:
    """Multiply the learning rates of all optimizers, and those that their schedules start from."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            for name in _RATES:
                if isinstance(group.get(name), Tensor):
                    # in place: captured graphs read this very tensor
                    group[name].mul_(factor)
                elif name in group:
                    group[name] = group[name] * factor
    for config in trainer.lr_scheduler_configs:
        _lower_base(config.scheduler, factor)


def _lower_base(scheduler: object, factor: float) -> None:
    # OneCycleLR and its like keep their peaks in the groups; CyclicLR keeps them here
    for name in ("base_lrs", "max_lrs", "_last_lr"):
        rates = getattr(scheduler, name, None)
        if isinstance(rates, list):
            setattr(scheduler, name, [rate * factor for rate in rates])
    for part in getattr(scheduler, "_schedulers", ()):
        _lower_base(part, factor)
