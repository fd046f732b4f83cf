"""Dropout for any LightningModule."""

from typing import Any, get_args

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from lightning_advreg.callbacks.layer_changes import LayerChanges
from lightning_advreg.networks.arguments import check_choice
from lightning_advreg.networks.drop_block import check_block_size
from lightning_advreg.networks.dropout_surgery import DropoutKind, drops_by_attachment, set_dropout_
from lightning_advreg.parameters import Pattern, as_patterns
from lightning_advreg.values import Number, to_float


class DropoutAblation(LayerChanges):
    """Set the dropout of a LightningModule, or give it one, without a change to its code.

    For networks that one did not write; those of this library take ``dropout=`` as an argument. Layers of the kind get
    the probability ``p``; where there are none they are attached to the layers that the kind calls for (see
    ``set_dropout_``), in every stage, once. The log says which layers these are, for order decides: the last linear
    layer may be an auxiliary head that is declared last. Dropout acts in training alone and has no weights, so weights
    trained with it load anywhere, but ``fit`` does not continue a checkpoint that was trained with another
    ``DropoutAblation``, and Lightning names the callback where it is missing.

    Args:
        p: The probability of dropping, in [0, 1); 0 switches layers of the kind off.
        kind: ``"dropout"`` for units, before the last linear layer; ``"spatial"`` for channels and ``"dropblock"`` for
            squares of pixels, after residual blocks or between convolutions; ``"droppath"`` for residual branches,
            with a probability that grows from branch to branch up to ``p``.
        layers: Where instead: names of layers in the module (in our classifiers: in their network), such as
            ``"backbone.layer4.*"``, or several.
        block_size: The side of the squares of ``"dropblock"``, in pixels of the features, an odd number.

    Raises:
        TypeError: If ``layers`` is not a name or a list of names.
        ValueError: If an argument is out of its range; in ``setup``, if there is no place for this kind of dropout, or
            another callback has copied the module already; if a checkpoint is continued that was trained with another
            one.

    Example:
        >>> module = pl.LightningModule()
        >>> module.net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> callback = DropoutAblation(0.3)
        >>> trainer = pl.Trainer(callbacks=[callback], logger=False)  # attaches it in fit, validate, test, predict
        >>> callback.apply_(module)  # without a Trainer
        >>> callback.changed
        ('net.1',)
    """

    changes_weights = False

    def __init__(
        self, p: Number, kind: DropoutKind = "dropout", layers: Pattern = None, *, block_size: int = 7
    ) -> None:
        super().__init__()
        self.p = to_float(p, "p", minimum=0, below=1)
        check_choice("kind", kind, get_args(DropoutKind))
        self.kind, self.layers = kind, as_patterns(layers, "layers")
        self.block_size = check_block_size(block_size)
        self._said: list[str] = []

    @property
    def arguments(self) -> dict[str, Any]:
        """What tells this callback from another, as plain values."""
        given: dict[str, Any] = {"p": self.p, "kind": self.kind}
        if self.layers is not None:
            given["layers"] = list(self.layers)
        return {**given, "block_size": self.block_size} if self.kind == "dropblock" else given

    def change_(self, network: nn.Module) -> tuple[str, ...]:
        """Set the dropout, and give the names of the layers that drop."""
        names = set_dropout_(network, self.p, self.kind, self.layers, block_size=self.block_size)
        said = self._what_drops(network, names)
        if said != self._said:
            # once, though every stage sets it again
            self._said = said
            for line in said:
                rank_zero_info(line)
        return names

    def _what_drops(self, network: nn.Module, names: tuple[str, ...]) -> list[str]:
        if self.p == 0:
            return [f"{self.text} switches off what there is of this kind in {type(network).__name__}."]
        attached = [name for name in names if drops_by_attachment(network.get_submodule(name))]
        own = [name for name in names if name not in attached]
        lines = [f"{self.text} sets dropout that {type(network).__name__} has: {', '.join(own)}."] if own else []
        if attached:
            where = ", the last linear layer in the order of its modules" if self.kind == "dropout" else ""
            asked = "." if self.layers else f"{where}; for others, name layers after which to drop with layers=[...]."
            lines.append(f"{self.text} attaches dropout to {type(network).__name__}: {', '.join(attached)}{asked}")
        return lines

    def note_(self, module: nn.Module, callbacks: list[LayerChanges]) -> None:
        """Leave the weights without a note, which do not depend on it."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set the dropout."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if sum(isinstance(callback, DropoutAblation) for callback in callbacks) > 1:
            raise ValueError(
                "two DropoutAblation callbacks would take back what the other did; keep one, with several names in "
                "its layers."
            )
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to continue a training with other dropout."""
        stored = [str(key) for key in checkpoint["callbacks"] if str(key).startswith("DropoutAblation(")]
        if trainer.state.fn != "fit" or self.text in stored:
            return
        if stored:
            raise ValueError(
                f"the checkpoint was trained with {stored[0]}, and {self.text} would continue it with other dropout; "
                f"give the Trainer callbacks=[{stored[0]}], or start anew."
            )
        rank_zero_warn(f"The checkpoint was trained without {self.text}; training continues with it.")
