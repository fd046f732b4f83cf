"""What the callbacks that change the layers of a module share: when they do, and when not."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import nn

from lightning_advreg.modules.classifier import Classifier

_COPYING = (WeightAveraging, StochasticWeightAveraging)
_TAKES_TIME = ("setup", "configure_model")


class LayerChanges(Callback, ABC):
    """Change layers of a module before a wrapper, an optimizer, or a checkpoint sees them, in every stage.

    Layers are changed in ``setup``, and once more after ``configure_model`` where the module builds layers there or in
    its own ``setup``. A subclass says in :meth:`change_` what changes; doing it twice must be as doing it once.

    Attributes:
        changed: The names of the layers that were changed last.
        changes_weights: Whether the weights of the module are others then, in training and out of it.
    """

    changes_weights: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.changed: tuple[str, ...] = ()
        self._waiting = False

    @abstractmethod
    def change_(self, network: nn.Module) -> tuple[str, ...]:
        """Change the layers of a network in place, and give the names of those that were not so yet."""

    @property
    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """What tells this callback from another of its class, as plain values."""

    @property
    def text(self) -> str:
        """The call that makes this callback."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{type(self).__name__}({given})"

    @property
    def state_key(self) -> str:
        """The call that makes this callback, which Lightning names where it is missing."""
        return self.text

    def state_dict(self) -> dict[str, Any]:
        """Give the arguments; a checkpoint holds them, so that Lightning notices if the callback is missing."""
        return dict(self.arguments)

    def apply_(self, module: nn.Module) -> None:
        """Change the layers of a module without a Trainer, in place, as ``setup`` does.

        For weights of a checkpoint that are to be loaded into a module of one's own.

        Args:
            module: The LightningModule.
        """
        self.changed = self.change_(_part(module)) or self.changed
        self.note_(module, [self])

    @abstractmethod
    def note_(self, module: nn.Module, callbacks: "list[LayerChanges]") -> None:
        """Note the changes of all callbacks of this class in the module, where its weights depend on them."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Change the layers, now and after ``configure_model``."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks[: callbacks.index(self)]:
            if isinstance(callback, _COPYING):
                raise ValueError(
                    f"{type(callback).__name__} copies the module before {type(self).__name__} changes its layers; put "
                    f"{self.text} first in the list of callbacks."
                )
        late = any(is_overridden(hook, pl_module) for hook in _TAKES_TIME) and not isinstance(pl_module, Classifier)
        siblings = [callback for callback in callbacks if type(callback) is type(self)]
        try:
            self._change(trainer, pl_module, siblings)
        except ValueError:
            # layers may be built later, and if not, the error comes then
            if not late:
                raise
        if late:
            self._again_after_configure_model(trainer, pl_module, siblings)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Wait for layers no longer; those that are changed stay so."""
        self._waiting = False

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Do so after an error too, which no teardown follows."""
        self.teardown(trainer, pl_module, "")

    def _change(self, trainer: pl.Trainer, pl_module: pl.LightningModule, siblings: "list[LayerChanges]") -> None:
        changed = self.change_(_part(pl_module))
        self.changed = changed or self.changed
        self.note_(pl_module, siblings)
        running = trainer.state.fn
        untrained = changed and self.changes_weights and not trainer.ckpt_path
        if untrained and running is not None and running != "fit":
            rank_zero_warn(
                f"{self.text} changed {len(changed)} layers of {type(pl_module).__name__} just now, which was not "
                f"trained with them, to {running.value} it; give ckpt_path a checkpoint that was trained so."
            )

    def _again_after_configure_model(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, siblings: "list[LayerChanges]"
    ) -> None:
        before = vars(pl_module).get("configure_model")
        configure = pl_module.configure_model
        self._waiting = True

        # no functools.wraps: Lightning looks through it, and would not call what the module does not override
        def configure_model() -> None:
            # first, so that a copy of the module has its own again
            if before is None:
                vars(pl_module).pop("configure_model", None)
            else:
                pl_module.configure_model = before  # type: ignore[method-assign]
            configure()
            if self._waiting:
                self._waiting = False
                self._change(trainer, pl_module, siblings)

        pl_module.configure_model = configure_model  # type: ignore[method-assign]


def _part(module: nn.Module) -> nn.Module:
    # an objective may hold networks of its own, which are not to be changed
    return module.network if isinstance(module, Classifier) else module
