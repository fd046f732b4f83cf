"""The moments of training at which nothing is half done, for which Lightning has no hook."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl


class LoopMoments:
    """Calls functions between steps, between epochs, and around the start of both, until they are taken off.

    Hooks come in the middle of things: after ``on_train_batch_end`` of a callback come that of the module, validation
    and schedulers that wait for it; after ``on_train_epoch_end`` come schedulers again. What is saved there lacks what
    comes after it. So the methods of Lightning's loops are called with something before or after them.

    Args:
        trainer: The trainer, while it fits.

    Example:
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False)
        >>> moments = LoopMoments(trainer)
        >>> moments.before(trainer.fit_loop, "reset", lambda: None)
        >>> moments.take_off()
        >>> "reset" in vars(trainer.fit_loop)
        False
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer = trainer
        self._covered: list[tuple[object, str]] = []

    def before(self, loop: object, method: str, call: Callable[..., None]) -> None:
        """Call a function, with the method's arguments, before a method of a loop."""
        original = getattr(loop, method)

        def covered(*args: Any) -> Any:  # noqa: ANN401
            call(*args)
            return original(*args)

        self._cover(loop, method, covered)

    def after(self, loop: object, method: str, call: Callable[..., None]) -> None:
        """Call a function, with the method's arguments, after a method of a loop."""
        original = getattr(loop, method)

        def covered(*args: Any) -> Any:  # noqa: ANN401
            result = original(*args)
            call(*args)
            return result

        self._cover(loop, method, covered)

    def take_off(self) -> None:
        """Give the loops their own methods back."""
        while self._covered:
            loop, method = self._covered.pop()
            vars(loop).pop(method, None)

    def _cover(self, loop: object, method: str, covered: Callable[..., Any]) -> None:
        setattr(loop, method, covered)
        self._covered.append((loop, method))


def between_steps(trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
    """Tell whether a batch that has just ended was the last of its step, and neither of its epoch nor of the run.

    A module with manual optimization that adds up gradients over batches says so with an attribute ``mid_step``.
    """
    loop = trainer.fit_loop
    held = (loop.batch_idx + 1) % trainer.accumulate_grad_batches != 0 or getattr(pl_module, "mid_step", False)
    return not held and not trainer.is_last_batch and not loop.epoch_loop.done


def run_ends(trainer: pl.Trainer) -> bool:
    """Tell whether the epoch that has just ended was the last one, after which comes what ends the run."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    by_epochs = epochs is not None and 0 <= epochs <= trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    return by_epochs or 0 <= steps <= trainer.global_step or trainer.should_stop


def as_in_the_middle_of_a_batch_(loops: dict[str, Any]) -> None:
    """Write the counters of a finished batch as they are in ``on_train_batch_end``, in place.

    It is the only place within an epoch from which Lightning goes on with the next batch: from counters that say that
    all is done it would end the batch a second time. Validation after that batch is over, and Lightning skips it.

    Args:
        loops: The part ``fit_loop`` of the loops in a checkpoint.
    """
    progress = loops["epoch_loop.batch_progress"]
    loops["epoch_loop.batch_progress"] = {
        **progress,
        **{count: {**progress[count], "completed": progress[count]["completed"] - 1} for count in ("total", "current")},
    }
    state = loops["epoch_loop.state_dict"]
    loops["epoch_loop.state_dict"] = {**state, "_batches_that_stepped": state["_batches_that_stepped"] - 1}


def begin_with_an_epoch_(trainer: pl.Trainer) -> None:
    """Let a run that was saved between epochs begin with a new one.

    With ``max_steps`` Lightning takes every loaded run for one within an epoch, and would end the last epoch again.
    """
    loops: list[Any] = [trainer.fit_loop]
    while loops:
        loop = loops.pop()
        loops += [part for part in vars(loop).values() if hasattr(part, "_restarting")]
        loop._restarting = False
