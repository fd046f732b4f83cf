"""Learning rates for a larger global batch: how much larger, where they stand, and how training gets up to them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias, get_args

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

Rule: TypeAlias = Literal["linear", "sqrt"]
"""How learning rates follow the size of the global batch."""

# of a parameter group; those of OneCycleLR and CyclicLR stand beside the one of the moment
_OF_A_GROUP = ("lr", "initial_lr", "max_lr", "min_lr")
_OF_A_SCHEDULER = ("base_lrs", "max_lrs", "_last_lr")


def check_rule(rule: object, *, constant_global_batch: bool) -> None:
    """Check the name of a rule, and that there is something to follow.

    Raises:
        ValueError: If it is no name of a rule, or the global batch stays as it is.
    """
    if constant_global_batch and rule is not None:
        raise ValueError(
            f"learning_rate={rule!r} follows the global batch, which constant_global_batch=True keeps as it is; leave "
            "one of them out."
        )
    if rule is not None and rule not in get_args(Rule):
        raise ValueError(
            f"learning_rate must be linear, sqrt or None, got {rule!r}; linear is that of Goyal et al. (2017) for SGD."
        )


def check_warmup(epochs: float, steps: object) -> None:
    """Check how long a warm-up is.

    Raises:
        ValueError: If ``steps`` is no integer of at least 0, or both are given.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"warmup_steps must be an integer of at least 0, got {steps!r}.")
    if steps and epochs:
        raise ValueError(
            f"warm-up takes epochs or steps, got warmup_epochs={epochs:g} and warmup_steps={steps}; leave one of them "
            "out."
        )


def rate_factor(rule: Rule | None, processes: int) -> float:
    """Give what learning rates are multiplied by.

    Args:
        rule: ``linear`` for the number of processes, ``sqrt`` for its square root, None for 1.
        processes: How many times the global batch is that of one process, at least 1.

    Example:
        >>> rate_factor("linear", 4), rate_factor("sqrt", 4), rate_factor(None, 4)
        (4.0, 2.0, 1.0)
    """
    if rule is None:
        return 1.0
    return float(processes) if rule == "linear" else math.sqrt(processes)


def warn_of_other_rates(rule: Rule | None, processes: int, factor: float, before: int) -> None:
    """Say so where a run continues with other learning rates than it would begin with.

    Args:
        rule: The rule.
        processes: The number of processes.
        factor: What learning rates were multiplied by when the run began.
        before: On how many processes that was.
    """
    wanted = rate_factor(rule, processes)
    if wanted != factor:
        rank_zero_warn(
            f"learning rates stay as the checkpoint has them, {factor:g} times those of one process, from a run on "
            f"{before} processes; this one has {processes}, for which learning_rate={rule!r} says {wanted:g} times."
        )


def scale_rates_(optimizers: Sequence[Optimizer], schedulers: Sequence[object], factor: float) -> None:
    """Multiply the learning rates of optimizers, and what their schedulers compute them from.

    Of each parameter group ``lr``, ``initial_lr``, ``max_lr`` and ``min_lr``; of each scheduler, and of those inside
    it, ``base_lrs`` and ``max_lrs``. Floors that were given as numbers, such as ``eta_min``, stay.

    Args:
        optimizers: The optimizers.
        schedulers: Their schedulers.
        factor: What to multiply by.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
        >>> scale_rates_([optimizer], [scheduler], 4)
        >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["initial_lr"], scheduler.base_lrs
        (0.4, 0.4, [0.4])
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            # not in place: a rate that is a tensor may be the one that the next optimizer is made with
            group.update({key: group[key] * factor for key in _OF_A_GROUP if group.get(key) is not None})
    for scheduler in _with_inner(schedulers):
        for name in _OF_A_SCHEDULER:
            rates = getattr(scheduler, name, None)
            if isinstance(rates, list | tuple):
                setattr(scheduler, name, [rate * factor for rate in rates])


def multiply_(groups: Sequence[dict[str, Any]], factor: float) -> None:
    """Multiply the learning rate of each parameter group, in place where it is a tensor.

    Args:
        groups: The groups.
        factor: What to multiply by.
    """
    seen: set[int] = set()
    for group in groups:
        rate = group["lr"]
        if isinstance(rate, Tensor):
            # several groups may hold one tensor, and captured graphs read from where it lies
            if id(rate) not in seen:
                rate.mul_(factor)
            seen.add(id(rate))
        else:
            group["lr"] = rate * factor


class Warmup:
    """Let the steps of optimizers begin with a share of their learning rates, whatever schedulers do to these.

    Step ``i`` is taken with ``share(i) * lr``, where ``lr`` is what the scheduler says, if there is one. It is there
    during the step alone, so that schedulers that go on from the rate of the moment do not see it.

    Args:
        optimizers: The optimizers.
        share: From the number of steps that an optimizer has taken to what its rates are multiplied by in the next.
        steps: How many steps each has taken already.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> weight.grad = torch.ones(1)
        >>> optimizer = torch.optim.SGD([weight], lr=1.0)
        >>> warmup = Warmup([optimizer], lambda steps: 0.25 if steps == 0 else 1.0)
        >>> optimizer.step(); weight.item(), optimizer.param_groups[0]["lr"]
        (-0.25, 1.0)
        >>> optimizer.step(); weight.item()
        -1.25
    """

    def __init__(
        self, optimizers: Sequence[Optimizer], share: Callable[[int], float], steps: Sequence[int] = ()
    ) -> None:
        self.steps = [*steps, *([0] * (len(optimizers) - len(steps)))]
        self._share = share
        # steps that an optimizer is in: one that calls the step of its base class runs the hooks for both
        self._depths = [0] * len(optimizers)
        self._kept: dict[int, list[Any]] = {}
        self._handles = []
        for index, optimizer in enumerate(optimizers):
            self._handles.append(optimizer.register_step_pre_hook(self._before(index)))
            self._handles.append(optimizer.register_step_post_hook(self._after(index)))

    def remove(self) -> None:
        """Leave the optimizers alone from now on."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, index: int) -> Callable[..., None]:
        def hook(optimizer: Optimizer, args: object, kwargs: object) -> None:
            self._depths[index] += 1
            share = self._share(self.steps[index])
            if self._depths[index] == 1 and share != 1:
                rates = [group["lr"] for group in optimizer.param_groups]
                self._kept[index] = [rate.clone() if isinstance(rate, Tensor) else rate for rate in rates]
                multiply_(optimizer.param_groups, share)

        return hook

    def _after(self, index: int) -> Callable[..., None]:
        def hook(optimizer: Optimizer, args: object, kwargs: object) -> None:
            self._depths[index] -= 1
            if self._depths[index]:
                return
            self.steps[index] += 1
            for group, rate in zip(optimizer.param_groups, self._kept.pop(index, []), strict=False):
                if isinstance(rate, Tensor):
                    group["lr"].copy_(rate)
                else:
                    group["lr"] = rate

        return hook


def warmup_share(done: float, start: float) -> float:
    """Give the share of the learning rate at a moment of a linear warm-up (Goyal et al. 2017, section 2.2).

    Args:
        done: How much of the warm-up lies behind; 1 and more is after it.
        start: The share at its beginning.

    Example:
        >>> [warmup_share(done, start=0.25) for done in (0, 0.5, 1, 3)]
        [0.25, 0.625, 1.0, 1.0]
    """
    return 1.0 if done >= 1 else start + (1 - start) * max(done, 0.0)


def _with_inner(schedulers: Sequence[object]) -> Iterator[object]:
    for scheduler in schedulers:
        yield scheduler
        # SequentialLR and ChainedScheduler
        yield from _with_inner(getattr(scheduler, "_schedulers", ()))
