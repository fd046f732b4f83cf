"""How good are the samples of a GAN?"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from tqdm.auto import tqdm

from lightning_advreg.callbacks.batches import taken_apart
from lightning_advreg.callbacks.gan_real_images import RealImages
from lightning_advreg.callbacks.gan_samples import SampleStream
from lightning_advreg.callbacks.gan_training_images import training_images
from lightning_advreg.callbacks.generators import classes_of
from lightning_advreg.callbacks.isolation import evaluation
from lightning_advreg.callbacks.schedule import check_positive, due
from lightning_advreg.data.share import shares
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
from lightning_advreg.metrics.gan_reference import ReferenceFile


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
            then need not extract; other metrics add to it; None to forget it.
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
        self._real: dict[str, RealImages] = {}
        self._due = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module can be sampled from, and that metrics get what they need."""
        SampleStream.check(pl_module, "GANEvaluation")
        self._real, self._due = {}, False
        names: list[type] = []
        for metric in self._chosen(pl_module):
            if metric.needs_logits and self.extractor.num_classes is None:
                raise ValueError(
                    f"{type(metric).__name__} needs an extractor that knows classes, and {self.extractor.name} does "
                    "not; use ClassifierFeatures, or leave the metric out."
                )
            classes = classes_of(pl_module)
            if metric.needs_labels and classes != self.extractor.num_classes:
                raise ValueError(
                    f"{type(metric).__name__} needs a generator of the {self.extractor.num_classes} classes that "
                    f"{self.extractor.name} knows, got num_classes={classes}; leave the metric out, or take another "
                    "extractor."
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
        self._due = False
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
        self._see("val", batch, dataloader_idx)

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
        self._see("test", batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample, measure and log, early enough for callbacks that monitor."""
        if self._due:
            self._evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sample, measure and log."""
        self._evaluate(trainer, pl_module, "test")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of what is known of the images, and give the device its memory back."""
        self._real, self._due = {}, False
        self.extractor.to("cpu")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of what is known of the images, since no teardown follows an error."""
        self.teardown(trainer, pl_module, "")

    def _start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._due = True
        if stage in self._real and self._real[stage].finished:
            return
        # outside inference mode, whose tensors could not be used elsewhere
        with torch.inference_mode(False):
            self.extractor.to(pl_module.device)
            metrics = [copy.deepcopy(metric).to(pl_module.device) for metric in self._chosen(pl_module)]
            self._real[stage] = RealImages(
                self.extractor, metrics, self.reference, shares(trainer, self.num_real)[0], pl_module.device
            )
            if self.reference_dir is not None:
                data = getattr(trainer, "datamodule", None)
                name = "loader" if data is None else type(data).__name__
                file = ReferenceFile(self.reference_dir, name, f"{stage}_{self.reference}", self.extractor.name)
                self._real[stage].read(file, trainer.global_rank, trainer.world_size)

    def _see(self, stage: str, batch: object, dataloader_idx: int) -> None:
        if self._due and dataloader_idx == 0 and not self._real[stage].finished:
            x, y = taken_apart(batch, None, "GANEvaluation")
            self._real[stage].see(x, y)

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._due, real = False, self._real[stage]
        shown = self.progress and trainer.is_global_zero and trainer.progress_bar_callback is not None
        logged: dict[str, Tensor] = {}
        with evaluation(pl_module, pl_module.device), torch.no_grad():
            if not real.finished:
                if real.needs_training_images:
                    for x, y in training_images(trainer, self.batch_size, self.num_real):
                        real.see_training(x.to(pl_module.device), y.to(pl_module.device))
                real.finish(write=trainer.is_global_zero)
            for metric in real.metrics:
                metric.forget_generated()
            self._sample(trainer, pl_module, real.metrics, shown)
            for metric in real.metrics:
                logged |= metric.figures(inception=self.extractor.is_inception)
        for name, value in logged.items():
            # every process has computed the same
            pl_module.log(f"{stage}/gan/{self.extractor.name}/{name}", value.float(), batch_size=1)

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
            if classes_of(pl_module) is not None:
                chosen += [ClassAccuracy()]
        return chosen
