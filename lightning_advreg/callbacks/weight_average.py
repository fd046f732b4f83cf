"""A moving average of the weights, validated beside them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_advreg.attacks import Attack
from lightning_advreg.callbacks.batch_statistics import batch_statistics
from lightning_advreg.callbacks.batches import KEYS, Keys, checked_keys, taken_apart
from lightning_advreg.callbacks.isolation import check_classifier, evaluation
from lightning_advreg.callbacks.moving_average import MovingAverage, exchange_
from lightning_advreg.callbacks.robust_accuracy import RobustAccuracy
from lightning_advreg.data.share import Share, shares
from lightning_advreg.files import read_checkpoint
from lightning_advreg.metrics import Accuracy
from lightning_advreg.values import Number, to_float

_KEY = "WeightAverage"


class WeightAverage(Callback):
    """Exponential moving average of a module's weights, ``a <- tau a + (1 - tau) w`` after each optimizer step.

    ``tau = min(decay, (1 + t) / (10 + t))`` after the t-th averaged step, so that the first weights are soon forgotten
    (for adversarial training: Gowal et al. 2020; Rebuffi et al. 2021). With ``decay=None`` all weights since the start
    of ``start_epoch`` count the same: stochastic weight averaging (Izmailov et al. 2018, algorithm 1) with a cycle of
    one step, usually over the last quarter of training, at a high or constant learning rate and with
    ``recompute_statistics=True``. Gradients that are accumulated over batches make
    one step, a batch that is replayed makes several. Steps of different optimizers within a batch make one together.
    Until ``start_epoch`` the average is the weights themselves.

    Training goes on from the raw weights, and the metrics of the module keep their names and meaning. Validation logs
    ``val/acc_ema``, the clean accuracy with averaged weights, and ``val/robust_acc/<name>_ema`` for each attack, where
    ``ModelCheckpoint`` can monitor them; with several loaders, names end in ``/dataloader_<i>``. They are measured in
    eval mode, without autocast. ``trainer.test`` runs on the averaged weights, and puts the raw ones back;
    ``trainer.predict`` and the module itself keep the raw ones. :func:`load_average_` takes the average out of a file.

    The average is kept in float32 at least. Buffers, such as the running statistics of BatchNorm, are not averaged:
    they are those of the module then, or recomputed at the end. Checkpoints hold raw weights under ``state_dict``
    and the average under ``callbacks``, and training continues from them exactly; those with ``save_weights_only=True``
    lack the average. Every process has the same average.

    Args:
        decay: The largest tau, in [0, 1); None for equal weights (SWA).
        start_epoch: The epoch from which steps are averaged, at least 0.
        attacks: Attacks under which validation measures the averaged weights, by name; none by default.
        max_samples: Attack this many images at the start of each loader's data; all of them by default.
        validate: Whether validation measures the averaged weights; False for modules that are no classifiers.
        use_in_test: Whether ``trainer.test`` runs on the averaged weights.
        swap_at_end: Whether the module holds the averaged weights once ``fit`` has ended. Off by default, so that a
            checkpoint made then can be continued.
        recompute_statistics: Whether BatchNorm statistics are recomputed for the averaged weights when training ends,
            from one epoch of training batches. Validation before that, and checkpoints, have the copied ones.
        statistics_attack: Attack those batches first, as adversarial training does; clean by default.
        keys: Where a batch has its images and labels, as in ``RobustAccuracy``; pairs (x, y) need none.

    Attributes:
        average: The average: its ``weights`` by the names of the module's parameters, and its ``steps``.

    Raises:
        TypeError: If an attack cannot be called, the module has no ``forward``, or a batch has no two tensors there.
        ValueError: If an argument is out of its range, or the strategy shards weights.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> callback = WeightAverage(attacks={"pgd10": PGD(steps=10)}, max_samples=1000)
        >>> callback.average.decay, callback.average.steps
        (0.9995, 0)
    """

    def __init__(
        self,
        decay: Number | None = 0.9995,
        start_epoch: int = 0,
        attacks: Attack | Mapping[str, Attack] | None = None,
        max_samples: int | None = None,
        validate: bool = True,
        use_in_test: bool = True,
        swap_at_end: bool = False,
        recompute_statistics: bool = False,
        statistics_attack: Attack | None = None,
        keys: Keys = KEYS,
    ) -> None:
        super().__init__()
        self.average = MovingAverage(None if decay is None else to_float(decay, "decay", minimum=0, below=1))
        if isinstance(start_epoch, bool) or not isinstance(start_epoch, int) or start_epoch < 0:
            raise ValueError(f"start_epoch must be an integer of at least 0, got {start_epoch!r}.")
        if statistics_attack is not None and not recompute_statistics:
            raise ValueError("statistics_attack has no effect without recompute_statistics; set that to True.")
        if attacks and not validate:
            raise ValueError("attacks are run in validation, which validate=False leaves out; set validate=True.")
        self.start_epoch, self.validate, self.use_in_test = start_epoch, validate, use_in_test
        self.swap_at_end, self.recompute_statistics = swap_at_end, recompute_statistics
        self.statistics_attack, self.keys = statistics_attack, checked_keys(keys)
        robust = None if attacks is None else RobustAccuracy(attacks, max_samples)
        self.attacks: dict[str, Attack] = {} if robust is None else robust.attacks
        self.max_samples = max_samples
        self._module: pl.LightningModule | None = None
        self._restored, self._stepped = False, set[int]()
        self._hooks: list[RemovableHandle] = []
        self._raw: dict[str, Tensor] = {}
        self._shares: list[tuple[Share, Share]] = []

    @property
    def state_key(self) -> str:
        """Where checkpoints hold the average."""
        return _KEY

    def state_dict(self) -> dict[str, Any]:
        """Give the average as plain tensors."""
        self._update()
        return self.average.state_dict() if self.average else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over an average."""
        self.average.load_state_dict(state_dict)
        self._restored = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Register metrics on the module, and forget the average of any other module."""
        if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
            raise ValueError("WeightAverage cannot average weights that are sharded over processes; use strategy ddp.")
        if self._module is not pl_module:
            self.average.clear()
        self._module, self._restored = pl_module, False
        if self.validate:
            check_classifier(pl_module, _KEY)
            pl_module._WeightAverage = nn.ModuleDict()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module as it was, and its accelerator if it did."""
        self.on_exception(trainer, pl_module, None)
        self.average.follow(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException | None) -> None:
        """Leave the module as it was, since no teardown follows an error."""
        while self._hooks:
            self._hooks.pop().remove()
        exchange_(pl_module, self._raw)
        self._raw = {}
        if hasattr(pl_module, "_WeightAverage"):
            del pl_module._WeightAverage

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the optimizers."""
        self._forget_unless_restored(trainer)
        self.average.follow(pl_module)
        for optimizer in trainer.optimizers:
            self._hooks.append(optimizer.register_step_pre_hook(partial(self._before_step, trainer, pl_module)))
            self._hooks.append(optimizer.register_step_post_hook(self._after_step))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Average, if there was a step; after it, so that hard limits are enforced already."""
        self._update()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Recompute statistics, if asked to."""
        if self.recompute_statistics and self.average:
            with self._averaged(pl_module):
                self.average.statistics = batch_statistics(trainer, pl_module, self.statistics_attack, self.keys)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average into the module, if asked to; after the last checkpoint."""
        if self.swap_at_end:
            exchange_(pl_module, self.average.values)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count."""
        if not self.validate:
            return
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            self._forget_unless_restored(trainer)
        self.average.follow(pl_module)
        self._shares = list(zip(shares(trainer, None), shares(trainer, self.max_samples), strict=True))
        metrics = cast(nn.ModuleDict, pl_module._WeightAverage)
        metrics.clear()
        for dataloader_idx in range(len(self._shares)):
            for name in (None, *self.attacks):
                metrics[self._key(name, dataloader_idx)] = Accuracy().to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Classify the batch with averaged weights, and attack it."""
        if not self.validate:
            return
        x, y = taken_apart(batch, self.keys, _KEY)
        clean, attacked = self._shares[dataloader_idx]
        place = clean.place
        counts: dict[str | None, int] = {None: clean.take(len(x))}
        counts |= dict.fromkeys(self.attacks, attacked.take(len(x)))
        metrics = cast(nn.ModuleDict, pl_module._WeightAverage)
        with self._averaged(pl_module):
            for name, counted in counts.items():
                if counted > 0:
                    with evaluation(pl_module, x.device, offset=place):
                        # tensors made under inference mode cannot take part in a backward pass, these copies can
                        images, labels = x[:counted].detach().clone(), y[:counted].clone()
                        if name is not None:
                            images = self.attacks[name](pl_module, images, labels)
                        with torch.no_grad():
                            logits = pl_module(images)
                    cast(Accuracy, metrics[self._key(name, dataloader_idx)]).update(logits, labels)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log, early enough for callbacks that monitor."""
        if self.validate:
            for key, metric in cast(nn.ModuleDict, pl_module._WeightAverage).items():
                # named, since Lightning remembers the metrics that the module had at its first log
                attribute = f"_WeightAverage.{key}"
                pl_module.log(key, cast(Accuracy, metric), prog_bar=True, metric_attribute=attribute)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the averaged weights into the module, until teardown."""
        self._forget_unless_restored(trainer)
        if not self.use_in_test:
            return
        if not self.average:
            rank_zero_warn(
                "WeightAverage has no average of these weights, and the test runs on the weights as they are; test the "
                "module that was trained, or give ckpt_path a checkpoint that was saved with this callback."
            )
        self.average.follow(pl_module)
        self._raw = exchange_(pl_module, self.average.values)

    @contextmanager
    def _averaged(self, pl_module: pl.LightningModule) -> Iterator[None]:
        raw = exchange_(pl_module, self.average.values)
        try:
            yield
        finally:
            exchange_(pl_module, raw)

    def _before_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: object, *_: object) -> None:
        if id(optimizer) in self._stepped:
            self._update()
        if not self.average and trainer.current_epoch >= self.start_epoch:
            self.average.start(pl_module)

    def _after_step(self, optimizer: object, *_: object) -> None:
        self._stepped.add(id(optimizer))

    def _update(self) -> None:
        due, self._stepped = bool(self._stepped), set()
        if due and self.average and self._module is not None:
            self.average.update(self._module)

    def _forget_unless_restored(self, trainer: pl.Trainer) -> None:
        if trainer.ckpt_path and not self._restored:
            self.average.clear()

    def _key(self, name: str | None, dataloader_idx: int) -> str:
        suffix = f"/dataloader_{dataloader_idx}" if len(self._shares) > 1 else ""
        return ("val/acc_ema" if name is None else f"val/robust_acc/{name}_ema") + suffix


def load_average_(module: nn.Module, path: str | Path) -> None:
    """Put the averaged weights of a checkpoint file into a module, in place.

    For use after ``load_from_checkpoint``, which gives the raw weights.

    Args:
        module: The LightningModule whose training wrote the file.
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no checkpoint, holds no average, or one of another module.
    """
    state = read_checkpoint(path).get("callbacks", {}).get(_KEY)
    if state is None:
        raise ValueError(
            f"{path} holds no averaged weights; train with WeightAverage, and save with save_weights_only=False."
        )
    exchange_(module, {**state["weights"], **state["statistics"]})
