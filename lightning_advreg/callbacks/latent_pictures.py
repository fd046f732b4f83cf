"""Pictures of what a generator has learnt: the way between two samples, and each class."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from lightning_advreg.callbacks.generators import check_generates, classes_of, cycled_labels, generated
from lightning_advreg.callbacks.image_log import batches_trained, log_image
from lightning_advreg.callbacks.schedule import check_positive, due
from lightning_advreg.metrics import slerp
from lightning_advreg.reporting import image_grid


class LatentInterpolation(Callback):
    """Show the way from one sample to another, a pair in each row.

    The ends are neighbouring rows of the module's ``fixed_latent``, so they stay the same over the run. A generator
    that has learnt by heart jumps from one image to the other; one that has learnt the images' shape changes them
    little by little. Noise between is found by ``metrics.slerp``. With labels, each row keeps its class. At the end of
    a training epoch the grid ``interpolation`` goes where :func:`~lightning_advreg.callbacks.log_image` sends it.

    Args:
        rows: Pairs to show; ``fixed_latent`` must have twice as many rows.
        steps: Images in a row, with the ends; at least 3.
        every_n_epochs: Show them at the end of every n-th epoch.

    Raises:
        TypeError: If the module lacks ``fixed_latent`` or ``sample``.
        ValueError: If a number is too small, or ``fixed_latent`` has too few rows.

    Example:
        >>> LatentInterpolation(rows=4, steps=10).steps
        10
    """

    def __init__(self, rows: int = 8, steps: int = 8, every_n_epochs: int = 1) -> None:
        super().__init__()
        self.rows = check_positive(rows, "rows")
        self.steps = check_positive(steps, "steps")
        if steps < 3:
            raise ValueError(f"steps must be at least 3, two ends and what lies between, got {steps}.")
        self.every_n_epochs = check_positive(every_n_epochs, "every_n_epochs")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module can generate."""
        check_generates(pl_module, "LatentInterpolation", rows=2 * self.rows)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Generate and show, if this epoch is due."""
        if not due(trainer, self.every_n_epochs):
            return
        ends: Tensor = pl_module.fixed_latent[: 2 * self.rows]  # type: ignore[index]
        shares = torch.linspace(0, 1, self.steps, device=ends.device).view(1, -1, 1)
        z = slerp(ends[0::2, None], ends[1::2, None], shares).flatten(0, 1)
        y = cycled_labels(pl_module, self.rows)
        images = generated(pl_module, z, None if y is None else y.repeat_interleave(self.steps))
        log_image(
            trainer,
            "interpolation",
            image_grid(images, self.steps),
            step=trainer.current_epoch + 1,
            batch=batches_trained(trainer),
        )


class SamplesByClass(Callback):
    """Show samples of a conditional generator, a class in each row.

    All rows have the same noise, column by column, so that one sees what the label changes and what the noise does. At
    the end of a training epoch the grid ``samples_by_class`` goes where :func:`~lightning_advreg.callbacks.log_image`
    sends it.

    Args:
        per_class: Samples of each class, at most the rows of the module's ``fixed_latent``.
        every_n_epochs: Show them at the end of every n-th epoch.
        max_classes: Show the first so many classes.

    Raises:
        TypeError: If the module lacks ``fixed_latent`` or ``sample``, or its generator takes no labels.
        ValueError: If a number is below 1, or ``fixed_latent`` has too few rows.

    Example:
        >>> SamplesByClass(per_class=10, every_n_epochs=5).per_class
        10
    """

    def __init__(self, per_class: int = 8, every_n_epochs: int = 1, max_classes: int = 20) -> None:
        super().__init__()
        self.per_class = check_positive(per_class, "per_class")
        self.every_n_epochs = check_positive(every_n_epochs, "every_n_epochs")
        self.max_classes = check_positive(max_classes, "max_classes")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module can generate images of a class."""
        check_generates(pl_module, "SamplesByClass", rows=self.per_class)
        if classes_of(pl_module) is None:
            raise TypeError(
                f"SamplesByClass needs a conditional generator, and that of {type(pl_module).__name__} has no "
                "num_classes; use one that takes labels, or the callback GeneratedSamples."
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Generate and show, if this epoch is due."""
        classes = classes_of(pl_module)
        if classes is None or not due(trainer, self.every_n_epochs):
            return
        count = min(classes, self.max_classes)
        z: Tensor = pl_module.fixed_latent[: self.per_class].repeat(count, 1)  # type: ignore[index]
        y = torch.arange(count, device=z.device).repeat_interleave(self.per_class)
        grid = image_grid(generated(pl_module, z, y), self.per_class)
        log_image(trainer, "samples_by_class", grid, step=trainer.current_epoch + 1, batch=batches_trained(trainer))
