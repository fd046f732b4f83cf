"""Accuracy under attack, measured during validation and test of any LightningModule."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from lightning_advreg.attacks import Attack
from lightning_advreg.attacks.batch_size import attack_what_fits
from lightning_advreg.callbacks.batches import KEYS, Keys, checked_keys, taken_apart
from lightning_advreg.callbacks.class_tally import ClassTally
from lightning_advreg.callbacks.isolation import check_classifier, evaluation
from lightning_advreg.callbacks.pixel_units import PixelUnits
from lightning_advreg.callbacks.schedule import check_positive, due
from lightning_advreg.data.share import Share, shares
from lightning_advreg.evaluation.attacks import named_attacks
from lightning_advreg.metrics import Accuracy

_NO_LIMIT = 2**31
"""How many images fit the memory, as long as no batch has shown that they do not."""


class RobustAccuracy(Callback):
    """Attack the images of validation and test, and log the accuracy that is left.

    Logs ``val/robust_acc/<name>`` and ``test/robust_acc/<name>`` for each attack at the end of the epoch, where
    ``ModelCheckpoint`` and ``EarlyStopping`` can monitor them. With several loaders, names end in ``/dataloader_<i>``.

    The module's ``forward`` must map images in [0, 1] to logits, and batches be pairs (x, y) or have both at ``keys``.
    Nothing of the training changes: weights, gradients, BatchNorm statistics, train flags and random generators stay as
    they are, and the attack runs with gradients on and autocast off whatever the Trainer sets. An attack without a seed
    of its own draws from a stream that the run's seed and the batch determine, so it finds the same random starts in
    every epoch.

    Over several processes every image counts once, also where the distributed sampler repeats images to give all
    processes equally many. The sanity check attacks too, to find errors early, and leaves nothing behind.

    Args:
        attacks: Attacks by name; a single one goes by the name of its class in lower case. Any callable
            ``attack(model, x, y) -> x_adv`` will do.
        max_samples: Attack this many images at the start of each loader's data, over all processes together; all of
            them by default. With a shuffling loader these are different images in every epoch. Where the data are
            sorted by class, as folders are, a warning says how many classes are left out.
        every_n_epochs: Attack in every n-th epoch of ``fit``; ``validate`` and ``test`` always do. In other epochs
            nothing is logged, so a checkpoint callback that monitors the result must skip them as well.
        keys: Where a batch has its images and labels: keys of a dict, such as ``("pixels", "class")``, or places in a
            tuple, such as ``(0, 1)``. Pairs need none.
        mean: What was subtracted from each channel of the images, in [0, 1]; None for images in [0, 1]. Where the data
            come normalised, these numbers put the attack and its budget into pixels, and ``forward`` gets normalised
            images.
        std: What each channel was divided by then, positive.

    Raises:
        TypeError: If an attack cannot be called, the module has no ``forward``, or a batch has no two tensors there.
        ValueError: If there is no attack, a name is empty or contains ``/`` or ``.``, an attack is targeted or leaves
            its budget, a number is below 1, or two of these callbacks use one name.

    Example:
        >>> from lightning_advreg.attacks import FGSM, PGD
        >>> callback = RobustAccuracy({"fgsm": FGSM(eps="8/255"), "pgd20": PGD(steps=20)}, max_samples=1000)
        >>> list(callback.attacks), list(RobustAccuracy(PGD()).attacks)
        (['fgsm', 'pgd20'], ['pgd'])
    """

    def __init__(
        self,
        attacks: Attack | Mapping[str, Attack],
        max_samples: int | None = None,
        every_n_epochs: int = 1,
        keys: Keys = KEYS,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.attacks = named_attacks(attacks)
        self.max_samples = None if max_samples is None else check_positive(max_samples, "max_samples")
        self.every_n_epochs = check_positive(every_n_epochs, "every_n_epochs")
        self.keys = checked_keys(keys)
        self.mean, self.std = mean, std
        self._units = PixelUnits(mean, std, "RobustAccuracy")
        self._shares: list[Share] = []
        self._tallies: list[ClassTally] = []
        self._fits = _NO_LIMIT
        # names of attacks differ between callbacks of one Trainer, so this does too
        self._attribute = "_RobustAccuracy_" + "_".join(self.attacks)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Register metrics on the module, where Lightning moves, synchronises and resets them."""
        check_classifier(pl_module, "RobustAccuracy")
        for other in _others(trainer, self):
            if shared := self.attacks.keys() & other.attacks.keys():
                raise ValueError(
                    f"two RobustAccuracy callbacks have an attack named {sorted(shared)[0]!r}; rename one of them."
                )
        setattr(pl_module, self._attribute, nn.ModuleDict())

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the metrics off the module."""
        if hasattr(pl_module, self._attribute):
            delattr(pl_module, self._attribute)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Take the metrics off the module, since no teardown follows an error."""
        self.teardown(trainer, pl_module, "")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count, if this epoch is due."""
        self._shares = []
        if trainer.state.fn != "fit" or trainer.sanity_checking or due(trainer, self.every_n_epochs):
            self._start(trainer, pl_module, "val")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to count."""
        self._start(trainer, pl_module, "test")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attack the batch."""
        if self._shares:
            self._attack(pl_module, batch, "val", dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attack the batch."""
        self._attack(pl_module, batch, "test", dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log, early enough for callbacks that monitor."""
        if self._shares:
            self._log(pl_module)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log."""
        self._log(pl_module)

    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._shares = shares(trainer, self.max_samples)
        self._tallies = [ClassTally("RobustAccuracy") for _ in self._shares]
        metrics = self._metrics(pl_module)
        metrics.clear()
        for dataloader_idx in range(len(self._shares)):
            for name in self.attacks:
                metrics[self._key(stage, name, dataloader_idx)] = Accuracy().to(pl_module.device)

    def _attack(self, pl_module: pl.LightningModule, batch: object, stage: str, dataloader_idx: int) -> None:
        x, y = taken_apart(batch, self.keys, "RobustAccuracy")
        share = self._shares[dataloader_idx]
        place, counted = share.place, share.take(len(x))
        self._tallies[dataloader_idx].see(y, counted)
        if counted == 0:
            return
        metrics, model = self._metrics(pl_module), self._units.seen_by(pl_module, x.dtype)
        for name, attack in self.attacks.items():
            with evaluation(pl_module, x.device, offset=place):
                # tensors made under inference mode cannot take part in a backward pass, these copies can
                images, labels = self._units.clean(x[:counted].detach().clone()), y[:counted].clone()
                if place == 0 and self._units.normalised:
                    self._units.check(images)
                x_adv, self._fits = attack_what_fits(attack, model, images, labels, self._fits)
                with torch.no_grad():
                    logits = model(x_adv)
            cast(Accuracy, metrics[self._key(stage, name, dataloader_idx)]).update(logits, labels)

    def _log(self, pl_module: pl.LightningModule) -> None:
        for tally in self._tallies:
            tally.warn()
        for key, metric in self._metrics(pl_module).items():
            # named, since Lightning remembers the metrics that the module had at its first log
            pl_module.log(key, cast(Accuracy, metric), prog_bar=True, metric_attribute=f"{self._attribute}.{key}")

    def _metrics(self, pl_module: pl.LightningModule) -> nn.ModuleDict:
        metrics = getattr(pl_module, self._attribute)
        assert isinstance(metrics, nn.ModuleDict)
        return metrics

    def _key(self, stage: str, name: str, dataloader_idx: int) -> str:
        suffix = f"/dataloader_{dataloader_idx}" if len(self._shares) > 1 else ""
        return f"{stage}/robust_acc/{name}{suffix}"


def _others(trainer: pl.Trainer, this: RobustAccuracy) -> list[RobustAccuracy]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [other for other in callbacks if isinstance(other, RobustAccuracy) and other is not this]
