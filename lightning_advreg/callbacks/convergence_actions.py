"""What can be done in the middle of a training that goes wrong."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from lightning_advreg.attacks import PGD, Attack, BoundedAttack, Norm
from lightning_advreg.attacks.nfgsm import NFGSM
from lightning_advreg.callbacks.convergence_rules import CATASTROPHIC, NON_FINITE, PLATEAU, UNSCHEDULED, Alarm

ActionName: TypeAlias = Literal["warn", "stop", "rollback", "lower_lr", "pgd2", "nfgsm"]
"""What to do at an alarm, by name."""

Action: TypeAlias = ActionName | Attack
"""What to do at an alarm; an attack replaces that of the module."""

_FACTOR = 0.1
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
_SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class Snapshot:
    """Weights, buffers and optimizer states of a moment, copied to the CPU.

    Learning rates are no part of it: their schedule goes on where it is.

    Args:
        label: What the moment was, such as ``epoch 4``.
        module: The module's ``state_dict``.
        optimizers: The ``state`` of each optimizer.
    """

    def __init__(self, label: str, module: Mapping[str, Any], optimizers: Sequence[Mapping[int, Any]]) -> None:
        self.label = label
        self._module, self._optimizers = dict(module), list(optimizers)

    @classmethod
    def take(cls, trainer: pl.Trainer, pl_module: pl.LightningModule, label: str) -> "Snapshot":
        """Copy what the module and its optimizers are now."""
        # tensors of inference mode, in which validation runs, could not be trained on
        with torch.inference_mode(False), torch.no_grad():
            states = [_copied(optimizer.state_dict()["state"]) for optimizer in trainer.optimizers]
            return cls(label, _copied(pl_module.state_dict()), states)

    def restore(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the module and its optimizers back, bit for bit, and drop gradients."""
        with torch.inference_mode(False), torch.no_grad():
            pl_module.load_state_dict(self._module)
            for optimizer, state in zip(trainer.optimizers, self._optimizers, strict=True):
                # copies: an optimizer goes on with the very tensors it is given
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": _copied(state), "param_groups": groups})
                optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Give plain values and tensors."""
        return {"label": self.label, "module": self._module, "optimizers": self._optimizers}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Snapshot":
        """Rebuild what :meth:`state_dict` gave."""
        return cls(state["label"], _copied(state["module"]), _copied(state["optimizers"]))


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
        self.replaced = False

    @property
    def rolls_back(self) -> bool:
        """Whether snapshots are needed."""
        return "rollback" in self.actions

    def check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the actions are possible here.

        Raises:
            TypeError: If the module's attack is to be replaced and cannot be.
            ValueError: If weights are to be rolled back that lie in parts on several devices.
        """
        if self._attacks and not callable(getattr(pl_module, "use_attack", None)):
            raise TypeError(
                f"action {self._attacks[0]!r} replaces the training attack, and {type(pl_module).__name__} has no "
                "method `use_attack(attack)`; train an AdversarialClassifier, or use action='rollback' or 'stop'."
            )
        if self._attacks and isinstance(self._attacks[0], str):
            self._replacement(pl_module)
        if self.rolls_back and isinstance(trainer.strategy, _SHARDED):
            raise ValueError(
                f"action 'rollback' cannot collect weights that {type(trainer.strategy).__name__} has distributed; use "
                "strategy='ddp', or action='stop'."
            )

    def keep(self, trainer: pl.Trainer, pl_module: pl.LightningModule, label: str) -> None:
        """Remember the present moment as a good one, if that is needed."""
        if self.rolls_back:
            self.snapshot = Snapshot.take(trainer, pl_module, label)

    def resume(self, pl_module: pl.LightningModule) -> None:
        """Replace the attack again, where a checkpoint says that it was."""
        if self.replaced and self._attacks:
            _use(pl_module, self._replacement(pl_module))

    def act(self, trainer: pl.Trainer, pl_module: pl.LightningModule, alarm: Alarm) -> Answer:
        """Do what helps against an alarm.

        ``stop`` answers every alarm but that of a group without schedule. ``rollback`` answers catastrophic overfitting
        and losses that are not finite, ``lower_lr`` these two and the starting plateau, and another attack catastrophic
        overfitting alone, once.
        """
        done: list[str] = []
        snapshot = self.snapshot if self.rolls_back and alarm.name in (CATASTROPHIC, NON_FINITE) else None
        if snapshot is not None:
            snapshot.restore(trainer, pl_module)
            done.append(f"Went back to {snapshot.label}.")
        if "lower_lr" in self.actions and alarm.name in (CATASTROPHIC, NON_FINITE, PLATEAU):
            lower_learning_rates(trainer)
            done.append(f"Multiplied the learning rates by {_FACTOR:g}.")
        if self._attacks and alarm.name == CATASTROPHIC and not self.replaced:
            replacement = self._replacement(pl_module)
            _use(pl_module, replacement)
            self.replaced = True
            done.append(f"Training goes on with {replacement!r}.")
        stopped = "stop" in self.actions and alarm.name != UNSCHEDULED
        if stopped:
            trainer.should_stop = True
            done.append("Training stops.")
        return Answer(tuple(done), snapshot is not None, stopped)

    def state_dict(self) -> dict[str, Any]:
        """Give plain values and tensors."""
        snapshot = None if self.snapshot is None else self.snapshot.state_dict()
        return {"snapshot": snapshot, "replaced": self.replaced}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.snapshot = None if state["snapshot"] is None else Snapshot.from_state_dict(state["snapshot"])
        self.replaced = state["replaced"]

    def _replacement(self, pl_module: pl.LightningModule) -> Attack:
        chosen = self._attacks[0]
        if not isinstance(chosen, str):
            return chosen
        attack = getattr(pl_module, "attack", None)
        budget = attack_budget(pl_module)
        if budget is None:
            raise ValueError(
                f"action {chosen!r} takes its budget from the module's training attack, and {type(attack).__name__} "
                "has none; give an attack, such as PGD(eps=8/255, step_size=4/255, steps=2)."
            )
        norm, eps = budget
        loss = attack.loss if isinstance(attack, BoundedAttack) else "ce"
        mode = attack.model_mode if isinstance(attack, BoundedAttack) else "eval"
        if chosen == "nfgsm":
            return NFGSM(norm=norm, eps=eps, loss=loss, model_mode=mode)
        return PGD(norm=norm, eps=eps, step_size=eps / 2, steps=2, loss=loss, model_mode=mode)


def attack_budget(pl_module: pl.LightningModule) -> tuple[Norm, float] | None:
    """Give norm and eps of a module's training attack; None where it has none, or no eps above 0."""
    attack = getattr(pl_module, "attack", None)
    radius = getattr(attack, "radius", None)
    return (getattr(attack, "norm", "linf"), float(radius)) if isinstance(radius, float | int) and radius > 0 else None


def monitored_budget(pl_module: pl.LightningModule, norm: Norm | None, eps: float | None) -> tuple[Norm, float]:
    """Give the norm and eps to monitor: those given, or those of the module's training attack.

    Raises:
        ValueError: If there is no eps.
    """
    trained = attack_budget(pl_module)
    if eps is not None:
        return norm or (trained[0] if trained is not None else "linf"), eps
    if trained is None:
        raise ValueError(
            f"ConvergenceMonitor needs a budget, and {type(pl_module).__name__} has no training attack to take it "
            "from; give one, such as eps=8/255."
        )
    return trained


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


def _use(pl_module: pl.LightningModule, attack: Attack) -> None:
    pl_module.use_attack(attack)  # type: ignore[operator]


def _copied(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    return copy.deepcopy(value)
