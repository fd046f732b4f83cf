"""Pictures of a run: adversarial examples of a classifier, samples of a generator."""

import math
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from lightning_advreg.attacks import Attack
from lightning_advreg.callbacks.animation import log_animation
from lightning_advreg.callbacks.batches import KEYS, Keys, checked_keys, taken_apart
from lightning_advreg.callbacks.generators import check_generates, cycled_labels, generated
from lightning_advreg.callbacks.image_log import batches_trained, log_image
from lightning_advreg.callbacks.isolation import check_classifier, evaluation
from lightning_advreg.callbacks.pixel_units import PixelUnits
from lightning_advreg.callbacks.schedule import check_positive, due
from lightning_advreg.reporting import adversarial_examples_figure, image_grid
from lightning_advreg.values import Number, to_float


class AdversarialExamples(Callback):
    """Show what an attack does to the first images of validation and test.

    At the end of the epoch, ``val/adversarial_examples`` or ``test/adversarial_examples`` goes to the loggers and into
    the run folder (:func:`~lightning_advreg.callbacks.log_image`): clean images, perturbations, attacked images and
    predictions. Nothing of the training changes, random generators included. The sanity check shows nothing.

    Args:
        attack: The attack; any callable ``attack(model, x, y) -> x_adv`` will do.
        num_images: How many images of the first batch to show.
        every_n_epochs: Show them in every n-th epoch of ``fit``; ``validate`` and ``test`` always do.
        class_names: A name for each class; numbers are shown without.
        keys: Where a batch has its images and labels: keys of a dict, such as ``("pixels", "class")``, or places in a
            tuple, such as ``(0, 1)``. Pairs need none.
        mean: What was subtracted from each channel of the images, in [0, 1]; None for images in [0, 1]. Where the data
            come normalised, these numbers put the attack and its budget into pixels, and ``forward`` gets normalised
            images.
        std: What each channel was divided by then, positive.

    Raises:
        TypeError: If the attack cannot be called, the module has no ``forward``, or a batch has no two tensors there.
        ValueError: If a number is below 1, a class has no name, or ``mean`` comes without ``std`` or does not fit the
            images.

    Example:
        >>> from lightning_advreg.attacks import PGD
        >>> AdversarialExamples(PGD(eps="8/255"), num_images=4).num_images
        4
    """

    def __init__(
        self,
        attack: Attack,
        num_images: int = 8,
        every_n_epochs: int = 1,
        class_names: Sequence[str] | None = None,
        keys: Keys = KEYS,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not callable(attack):
            raise TypeError(f"attack must be called as attack(model, x, y), got {attack!r}; give one such as PGD().")
        self.attack = attack
        self.num_images = check_positive(num_images, "num_images")
        self.every_n_epochs = check_positive(every_n_epochs, "every_n_epochs")
        self.class_names = class_names
        self.keys = checked_keys(keys)
        self.mean, self.std = mean, std
        self._units = PixelUnits(mean, std, "AdversarialExamples")
        self._kept: tuple[Tensor, Tensor] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module can be attacked."""
        check_classifier(pl_module, "AdversarialExamples")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images, if this epoch is due."""
        wanted = not trainer.sanity_checking and (trainer.state.fn != "fit" or due(trainer, self.every_n_epochs))
        if wanted and batch_idx == dataloader_idx == 0:
            self._keep(batch)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images."""
        if batch_idx == dataloader_idx == 0:
            self._keep(batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attack what was kept, and show it."""
        self._show(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attack what was kept, and show it."""
        self._show(trainer, pl_module, "test")

    def _keep(self, batch: object) -> None:
        x, y = taken_apart(batch, self.keys, "AdversarialExamples")
        with torch.inference_mode(False):
            self._kept = x[: self.num_images].detach().clone(), y[: self.num_images].clone()

    def _show(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._kept is None:
            return
        (x, y), self._kept = self._kept, None
        with evaluation(pl_module, x.device):
            model, x = self._units.seen_by(pl_module, x.dtype), self._units.clean(x)
            if self._units.normalised:
                self._units.check(x)
            x_adv = self.attack(model, x, y)
            with torch.no_grad():
                predictions, predictions_adv = (model(images).argmax(1) for images in (x, x_adv))
        figure = adversarial_examples_figure(x, x_adv, y, predictions, predictions_adv, self.class_names)
        log_image(trainer, f"{stage}/adversarial_examples", figure, step=trainer.global_step)


class GeneratedSamples(Callback):
    """Show what a generator makes of the same latent vectors, epoch after epoch.

    The module must have a buffer ``fixed_latent`` of shape ``(n, latent_dim)`` and a method ``sample(z)`` that gives
    images of shape ``(N, C, H, W)`` in [0, 1]; if its ``generator.num_classes`` is a number, ``sample(z, y)``, which
    gets labels 0, 1, 2, ... over and over. At the end of a training epoch, a grid named ``samples`` goes to the loggers
    and into the run folder (:func:`~lightning_advreg.callbacks.log_image`). Its step is the number of epochs trained.
    At the end of ``fit`` all grids of the run, those from before it was resumed among them, become
    ``images/samples.gif``.

    Args:
        num_images: How many images to show, at most n.
        every_n_epochs: Show them at the end of every n-th epoch.
        frame_seconds: How long the animation shows each grid, in seconds; None for no animation.

    Raises:
        TypeError: If the module lacks ``fixed_latent`` or ``sample``.
        ValueError: If a number is out of its range, or ``fixed_latent`` has fewer than ``num_images`` rows.

    Example:
        >>> GeneratedSamples(num_images=16, every_n_epochs=5).every_n_epochs
        5
    """

    def __init__(self, num_images: int = 64, every_n_epochs: int = 1, frame_seconds: Number | None = 0.2) -> None:
        super().__init__()
        self.num_images = check_positive(num_images, "num_images")
        self.every_n_epochs = check_positive(every_n_epochs, "every_n_epochs")
        self.frame_seconds = None if frame_seconds is None else to_float(frame_seconds, "frame_seconds", minimum=0.02)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module can generate."""
        latent = getattr(pl_module, "fixed_latent", None)
        check_generates(pl_module, "GeneratedSamples")
        if isinstance(latent, Tensor) and len(latent) < self.num_images:
            raise ValueError(
                f"num_images must be at most {len(latent)}, the rows of the module's fixed_latent, got "
                f"{self.num_images}."
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Generate and show, if this epoch is due."""
        if not due(trainer, self.every_n_epochs):
            return
        z: Tensor = pl_module.fixed_latent[: self.num_images]  # type: ignore[index]
        images = generated(pl_module, z, cycled_labels(pl_module, len(z)))
        grid = image_grid(images, columns=math.ceil(math.sqrt(len(images))))
        log_image(trainer, "samples", grid, step=trainer.current_epoch + 1, batch=batches_trained(trainer))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Join the pictures."""
        if self.frame_seconds is not None:
            steps = range(self.every_n_epochs, trainer.current_epoch + 1, self.every_n_epochs)
            log_animation(trainer, "samples", steps=steps, frame_seconds=self.frame_seconds)
