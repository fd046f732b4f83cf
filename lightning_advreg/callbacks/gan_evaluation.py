"""How good are the samples of a GAN?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from tqdm.auto import tqdm

from lightning_advreg.callbacks.gan_samples import SampleStream
from lightning_advreg.callbacks.gan_training_images import training_images
from lightning_advreg.callbacks.isolation import evaluation, images_and_labels
from lightning_advreg.callbacks.schedule import check_positive, due
from lightning_advreg.callbacks.share import Share, shares
from lightning_advreg.metrics import (
    ClassAccuracy,
    FeatureExtractor,
    FrechetDistance,
    GenerationMetric,
    InterpolationSmoothness,
    KernelDistance,
    ModeCount,
    PrecisionRecallDensityCoverage,
)
from lightning_advreg.metrics.gan_base import Origin
from lightning_advreg.metrics.gan_reference import ImageChecksum, ReferenceFile


class GANEvaluation(Callback):
    """Compare samples with real images, in the features of an extractor, at the end of validation and test.

    Samples are those of the module's ``sample(z)``, the averaged generator of :class:`~lightning_advreg.GAN`. Each
    figure is logged as ``val/gan/<extractor>/<figure>``, or ``test/...``, under the extractor's name and hash. The same
    noise is used each time, and classes of a conditional generator are asked for equally often, one after another.

    Nothing of the training changes: random generators, modes and weights stay as they are, and extractor and metrics
    are in no checkpoint. Processes share the samples and the real images. The sanity check measures nothing.

    Args:
        extractor: What gives features: :class:`~lightning_advreg.metrics.ClassifierFeatures`,
            :class:`~lightning_advreg.metrics.InceptionFeatures`, or
            :class:`~lightning_advreg.metrics.PixelFeatures`.
        metrics: What to measure; None for the distances of Fréchet and kernel, precision, recall, density and coverage,
            and, if the extractor knows classes, modes and, for a conditional generator, the share of samples that are
            recognised.
        num_samples: How many samples to draw, over all processes.
        every_n_epochs: Measure in every n-th epoch of ``fit``; ``validate`` and ``test`` always do.
        reference: The real images: ``"held_out"`` for those of the first validation or test loader, ``"train"`` for
            the ``train_set`` of the data module, without augmentation, as papers on CIFAR-10 have it.
        num_real: How many real images to compare with, the first ones; None for all.
        reference_dir: A folder for what is known of the real images, which another run with the same data and extractor
            then need not extract; None to forget it.
        batch_size: Samples and training images per batch.
        seed: Of the noise.
        progress: Show a bar.

    Raises:
        TypeError: If the module has no ``sample`` or no ``latent_dim``.
        ValueError: If a number is below 1, a figure occurs twice, a metric needs what is not there, or a file of
            reference statistics is of something else.

    Example:
        >>> from lightning_advreg.metrics import PixelFeatures
        >>> GANEvaluation(PixelFeatures(), [FrechetDistance()], num_samples=1000).every_n_epochs
        1
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        metrics: Sequence[GenerationMetric] | None = None,
        num_samples: int = 10_000,
        every_n_epochs: int = 1,
        reference: Literal["held_out", "train"] = "held_out",
        num_real: int | None = None,
        reference_dir: str | Path | None = None,
        batch_size: int = 250,
        seed: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__()
        if reference not in ("held_out", "train"):
            raise ValueError(f"reference must be 'held_out' or 'train', got {reference!r}.")
        self.extractor = extractor
        self.metrics = None if metrics is None else list(metrics)
        self.num_samples = check_positive(num_samples, "num_samples")
        self.every_n_epochs = check_positive(every_n_epochs, "every_n_epochs")
        self.reference = reference
        self.num_real = None if num_real is None else check_positive(num_real, "num_real")
        self.reference_dir = None if reference_dir is None else Path(reference_dir)
        self.batch_size = check_positive(batch_size, "batch_size")
        self.seed, self.progress = seed, progress
        self._measured: dict[str, list[GenerationMetric]] = {}
        self._real = _Real()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module can be sampled from, and that metrics get what they need."""
        SampleStream.check(pl_module, "GANEvaluation")
        self._measured = {}
        names: list[type] = []
        for metric in self._chosen(pl_module):
            if metric.needs_logits and self.extractor.num_classes is None:
                raise ValueError(
                    f"{type(metric).__name__} needs an extractor that knows classes, and {self.extractor.name} does "
                    "not; use ClassifierFeatures, or leave the metric out."
                )
            if metric.needs_labels and SampleStream.classes_of(pl_module) is None:
                raise ValueError(
                    f"{type(metric).__name__} needs a conditional generator, with num_classes; leave the metric out."
                )
            names.append(type(metric))
        others: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        for other in others:
            if isinstance(other, GANEvaluation) and other is not self and other.extractor.name == self.extractor.name:
                raise ValueError(
                    f"two GANEvaluation callbacks with the extractor {self.extractor.name} would log the same figures; "
                    "give one all metrics."
                )
        if twice := {cls.__name__ for cls in names if names.count(cls) > 1}:
            raise ValueError(f"two metrics of class {min(twice)} would log the same figures; leave one out.")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so if there is no validation, in which to measure."""
        if sum(trainer.num_val_batches) == 0:
            rank_zero_warn("GANEvaluation measures at the end of validation, and this run has none; set val_size.")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare for real images, if this epoch is due."""
        self._real = _Real()
        if not trainer.sanity_checking and (trainer.state.fn != "fit" or due(trainer, self.every_n_epochs)):
            self._start(trainer, pl_module, "val")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare for real images."""
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
        """Look at the real images, if they are not known yet."""
        self._see(pl_module, "val", batch, dataloader_idx)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at the real images, if they are not known yet."""
        self._see(pl_module, "test", batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample, measure and log, early enough for callbacks that monitor."""
        if self._real.share is not None:
            self._evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample, measure and log."""
        self._evaluate(trainer, pl_module, "test")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of what is known of the images, and give the device its memory back."""
        self._measured, self._real = {}, _Real()
        self.extractor.to("cpu")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of what is known of the images, since no teardown follows an error."""
        self.teardown(trainer, pl_module, "")

    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._real = real = _Real()
        real.share = shares(trainer, self.num_real)[0]
        # outside inference mode, whose tensors could not be used elsewhere
        with torch.inference_mode(False):
            self.extractor.to(pl_module.device)
            real.checksum = ImageChecksum().to(pl_module.device)
            if stage in self._measured:
                real.known = True
                return
            self._measured[stage] = [metric.clone().to(pl_module.device) for metric in self._chosen(pl_module)]
            for metric in self._measured[stage]:
                metric.reset()
            if self.reference_dir is not None:
                real.file = ReferenceFile(
                    self.reference_dir, _name_of_data(trainer), f"{stage}_{self.reference}", self.extractor.name
                )
                real.stored = real.file.load(self._measured[stage], trainer.global_rank, trainer.world_size)
                real.known = real.stored is not None

    def _see(self, pl_module: pl.LightningModule, stage: str, batch: object, dataloader_idx: int) -> None:
        real = self._real
        # once known, real images are looked at again only where a file has to be checked against them
        if real.share is None or dataloader_idx > 0 or (real.known and real.file is None):
            return
        x, y = images_and_labels(batch, "GANEvaluation")
        counted = real.share.take(len(x))
        if counted == 0:
            return
        with evaluation(pl_module, x.device), torch.no_grad():
            x, y = x[:counted].clone(), y[:counted].clone()
            self._take(stage, x, y, ("held_out",) if self.reference == "train" else ("held_out", "real"))

    def _take(self, stage: str, x: Tensor, y: Tensor, origins: Sequence[Origin]) -> None:
        wanted = [
            (metric, origin) for metric in self._measured[stage] for origin in origins if origin in metric.origins
        ]
        if not wanted:
            return
        self._real.checksum.update(x)
        if not self._real.known:
            seen = self.extractor(x, y)
            for metric, origin in wanted:
                metric.update(seen, origin)

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        measured, device = self._measured[stage], pl_module.device
        shown = self.progress and trainer.is_global_zero and trainer.progress_bar_callback is not None
        with evaluation(pl_module, device), torch.no_grad():
            self._finish_reference(trainer, stage, device)
            for metric in measured:
                metric.forget_generated()
            self._sample(trainer, pl_module, measured, shown)
            logged: dict[str, Tensor] = {}
            for metric in measured:
                logged |= metric.figures(inception=self.extractor.is_inception)
        self._real = _Real()
        for name, value in logged.items():
            # every process has computed the same
            pl_module.log(f"{stage}/gan/{self.extractor.name}/{name}", value.float(), batch_size=1)

    def _finish_reference(self, trainer: pl.Trainer, stage: str, device: torch.device) -> None:
        real, origins = self._real, {origin for metric in self._measured[stage] for origin in metric.origins}
        if real.known and real.file is None:
            return
        if "train" in origins or (self.reference == "train" and "real" in origins):
            of_train: tuple[Origin, ...] = ("train",) if self.reference == "held_out" else ("train", "real")
            for x, y in training_images(trainer, self.batch_size, self.num_real):
                self._take(stage, x.to(device), y.to(device), of_train)
        if real.file is None:
            return
        seen = real.checksum.compute()
        if real.stored is None:
            real.file.save(self._measured[stage], seen, write=trainer.is_global_zero)
        else:
            real.file.check(real.stored, seen)

    def _sample(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, metrics: Sequence[GenerationMetric], shown: bool
    ) -> None:
        stream = SampleStream(pl_module, self.batch_size, self.seed, trainer.global_rank, trainer.world_size)
        on_samples = [metric for metric in metrics if not isinstance(metric, InterpolationSmoothness)]
        with tqdm(
            total=self.num_samples, desc=f"samples, {self.extractor.name}", disable=not shown, leave=False
        ) as bar:
            for x, y, drawn in stream.samples(self.num_samples if on_samples else 0):
                seen = self.extractor(x, y)
                for metric in on_samples:
                    metric.update(seen, "generated")
                bar.update(drawn)
        for metric in metrics:
            if isinstance(metric, InterpolationSmoothness):
                for x, neighbours in stream.steps(metric):
                    seen, others = (self.extractor(images, rounded=False) for images in (x, neighbours))
                    metric.update(seen, "generated", others)
        stream.check_finite()

    def _chosen(self, pl_module: pl.LightningModule) -> list[GenerationMetric]:
        if self.metrics is not None:
            return self.metrics
        chosen = [FrechetDistance(), KernelDistance(), PrecisionRecallDensityCoverage()]
        if self.extractor.num_classes is not None:
            chosen += [ModeCount()]
            if SampleStream.classes_of(pl_module) is not None:
                chosen += [ClassAccuracy()]
        return chosen


class _Real:
    """Where the real images of one validation or test stand."""

    def __init__(self) -> None:
        self.share: Share | None = None
        self.checksum = ImageChecksum()
        self.known = False
        self.file: ReferenceFile | None = None
        self.stored: Mapping[str, int] | None = None


def _name_of_data(trainer: pl.Trainer) -> str:
    data = getattr(trainer, "datamodule", None)
    return "loader" if data is None else type(data).__name__
