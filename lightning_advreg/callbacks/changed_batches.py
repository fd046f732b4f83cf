"""Standing between the Trainer and the ``training_step`` of any module, to change the batches it sees."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

Change: TypeAlias = Callable[[Any], Any]
"""From a batch to the batch that ``training_step`` sees; the given one is not written to."""

_CHANGES = "_changes_of_batches"


class BatchChange(Callback, ABC):
    """A callback that changes each training batch once, before ``training_step`` sees it.

    A batch that is replayed, as LBFGS does, comes changed as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self._batch_idx = 0
        self._changed: Any = None
        self._take_off: Callable[[], None] | None = None

    @abstractmethod
    def changed(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object) -> object:
        """Give the batch that ``training_step`` sees; the given one is not written to."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stand between the Trainer and ``training_step``."""
        self._take_off = change_batches(pl_module, functools.partial(self._once, trainer, pl_module))

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Forget what came of the batch before."""
        self._changed, self._batch_idx = None, batch_idx

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the last images."""
        self._changed = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the module its own ``training_step`` back."""
        self._changed = None
        if self._take_off is not None:
            self._take_off()
            self._take_off = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Do so after an error too, which no teardown follows."""
        self.teardown(trainer, pl_module, "")

    def _once(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object) -> object:
        if self._changed is None:
            self._changed = self.changed(trainer, pl_module, batch)
        return self._changed


def change_batches(module: pl.LightningModule, change: Change) -> Callable[[], None]:
    """Hand each training batch through a function before ``training_step`` sees it.

    Several functions act in the order in which they were given, and may be taken off in any order. The Trainer and
    other callbacks see the batch as it was.

    Args:
        module: The module; its attribute ``training_step`` is replaced until the last function is taken off.
        change: The function.

    Returns:
        What takes the function off.

    Example:
        >>> class Echo(pl.LightningModule):
        ...     def training_step(self, batch):
        ...         return batch
        >>> module = Echo()
        >>> first, second = change_batches(module, lambda b: b + 1), change_batches(module, lambda b: b * 10)
        >>> module.training_step(1)
        20
        >>> first()
        >>> second()
        >>> module.training_step(1), "training_step" in vars(module)
        (1, False)
    """
    # Not on_train_batch_start, which can change a batch in place only, and with it a data set whose tensors the batch
    # is a view of; nor on_after_batch_transfer, which the data module may own, and which knows no autocast and no
    # logging. What the strategy calls is the attribute of the instance, under DDP inside its forward.
    before = vars(module).get("training_step")
    changes: list[Change] | None = getattr(before, _CHANGES, None)
    if changes is None:
        changes = _stand_between(module)
    changes.append(change)

    def take_off() -> None:
        changes.remove(change)
        step = vars(module).get("training_step")
        if not changes and getattr(step, _CHANGES, None) is changes:
            _give_back(module, step)

    return take_off


def _stand_between(module: pl.LightningModule) -> list[Change]:
    step, changes = module.training_step, list[Change]()

    @functools.wraps(step)
    def training_step(batch: object, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        for change in changes:
            batch = change(batch)
        return step(batch, *args, **kwargs)

    setattr(training_step, _CHANGES, changes)
    training_step._before = vars(module).get("training_step")  # type: ignore[attr-defined]
    module.training_step = training_step  # type: ignore[method-assign]
    return changes


def _give_back(module: pl.LightningModule, step: Any) -> None:  # noqa: ANN401
    if step._before is None:
        del module.training_step
    else:
        module.training_step = step._before  # type: ignore[method-assign]
