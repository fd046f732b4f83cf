"""Other normalisation layers for any LightningModule."""

from typing import Any, cast, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from lightning_advreg.callbacks.layer_changes import LayerChanges
from lightning_advreg.networks.arguments import check_choice
from lightning_advreg.networks.changes import NAME, Changes, note_changes
from lightning_advreg.networks.dual_norm import Branch, checked_branch, evaluate_by_
from lightning_advreg.networks.frozen_norm import FrozenBatchNorm
from lightning_advreg.networks.norm_surgery import NormKind, replace_norms_
from lightning_advreg.parameters import Pattern, as_patterns


class NormAblation(LayerChanges):
    """Replace the normalisation layers of a LightningModule, without a change to its code.

    For networks that one did not write; those of this library take ``norm=`` as an argument. Layers are replaced before
    the optimizer is made, in every stage, and only if they are of another kind, so that ``fit``, ``validate``, ``test``
    and ``predict`` may follow each other, with the same callback or a new one. Learned scales and shifts stay. Put the
    callback before Lightning's ``WeightAveraging`` and ``StochasticWeightAveraging``, which copy the module.

    Checkpoints name the ablation in an entry of their ``state_dict``, without a value, and weights of another one are
    refused. ``load_from_checkpoint`` runs no callback: classifiers of this library replace their layers themselves;
    for a module of one's own, call :meth:`apply_` on it, then ``load_state_dict``.

    Args:
        kind: ``"batch"``, ``"group"``, ``"layer"``, ``"instance"``, ``"none"``, ``"frozen"`` or ``"dual"``. ``"none"``
            standardises the weights of convolutions instead, and lets residual branches begin at zero, so that deep
            networks still train; ``"frozen"`` is BatchNorm by the statistics that it has; ``"dual"`` has statistics,
            scales and shifts of their own for clean and for attacked images (AdvProp, Xie et al. 2020), and takes an
            ``AdversarialClassifier`` whose objective trains on both. See ``replace_norms_``.
        layers: Names of layers in the module (in our classifiers: in their network), such as ``"backbone.*"``, or
            several; all by default. Several callbacks can have layers of their own.
        train_affine: For ``"frozen"``, whether scales and shifts are trained.
        evaluate: For ``"dual"``, which statistics every pass of evaluation uses, of clean and attacked images alike:
            ``"adversarial"``, the robust ones, or ``"clean"``, as AdvProp does for clean accuracy. Checkpoints do not
            keep it, so that one can be tested both ways; without a Trainer, call ``evaluate_by_(network, "clean")``.

    Raises:
        TypeError: If ``layers`` is not a name or a list of names.
        ValueError: If ``kind`` is unknown, or ``train_affine`` or ``evaluate`` has no effect; in ``setup``, if the
            module has no layer to replace, one that cannot be replaced, or comes after a callback that copied it; when
            a checkpoint is loaded that was trained with other layers.

    Example:
        >>> module = pl.LightningModule()
        >>> module.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8))
        >>> callback = NormAblation("group")
        >>> trainer = pl.Trainer(callbacks=[callback], logger=False)  # replaces them in fit, validate, test, predict
        >>> callback.apply_(module)  # without a Trainer
        >>> module.net[1].num_groups
        4
    """

    changes_weights = True

    def __init__(
        self, kind: NormKind, layers: Pattern = None, *, train_affine: bool = True, evaluate: Branch = "adversarial"
    ) -> None:
        super().__init__()
        check_choice("kind", kind, get_args(NormKind))
        if not train_affine and kind != "frozen":
            raise ValueError(f"train_affine=False has no effect with kind={kind!r}; use it with kind='frozen'.")
        if checked_branch(evaluate) != "adversarial" and kind != "dual":
            raise ValueError(f"evaluate={evaluate!r} has no effect with kind={kind!r}; use it with kind='dual'.")
        self.kind, self.train_affine, self.evaluate = kind, train_affine, evaluate
        self.layers = as_patterns(layers, "layers")

    @property
    def arguments(self) -> dict[str, Any]:
        """What tells this callback from another, as plain values."""
        given: dict[str, Any] = {"kind": self.kind}
        if self.layers is not None:
            given["layers"] = list(self.layers)
        return given if self.train_affine else {**given, "train_affine": False}

    def change_(self, network: nn.Module) -> tuple[str, ...]:
        """Replace layers of another kind, and give their names."""
        changed = replace_norms_(network, self.kind, self.layers, train_affine=self.train_affine)
        if self.kind == "dual":
            evaluate_by_(network, self.evaluate)
        return changed

    def note_(self, module: nn.Module, callbacks: list[LayerChanges]) -> None:
        """Note the kinds of layers in the module, and so in its weights."""
        note_changes(module, {callback.text: callback.arguments for callback in callbacks})

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave weights to the loading code again; the layers stay replaced."""
        super().teardown(trainer, pl_module, stage)
        if hasattr(pl_module, NAME):
            cast(Changes, getattr(pl_module, NAME)).explains = False

    def _change(self, trainer: pl.Trainer, pl_module: pl.LightningModule, siblings: list[LayerChanges]) -> None:
        super()._change(trainer, pl_module, siblings)
        # from now on it is said in a sentence why weights do not fit, unless the module takes what fits
        cast(Changes, getattr(pl_module, NAME)).explains = pl_module.strict_loading
        if self.kind == "frozen" and trainer.state.fn == "fit" and not trainer.ckpt_path:
            self._warn_of_no_statistics(pl_module)

    @staticmethod
    def _warn_of_no_statistics(pl_module: pl.LightningModule) -> None:
        frozen = [layer for layer in pl_module.modules() if isinstance(layer, FrozenBatchNorm)]
        untouched = [
            not layer.running_mean.any() and torch.equal(layer.running_var, torch.ones_like(layer.running_var))
            for layer in frozen
        ]
        if frozen and all(untouched):
            rank_zero_warn(
                f"NormAblation('frozen') keeps the statistics of a new {type(pl_module).__name__}, which normalise "
                "nothing; it is meant for networks that were trained. Without normalisation, use kind='none'."
            )
