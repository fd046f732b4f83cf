"""Pictures of samples beside the training images that are nearest to them."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from lightning_advreg.callbacks.convergence_moment import ranks_of
from lightning_advreg.callbacks.generators import check_generates, cycled_labels, generated, images_of
from lightning_advreg.callbacks.image_log import batches_trained, log_image
from lightning_advreg.callbacks.schedule import check_positive, due
from lightning_advreg.networks.pixels import to_bytes
from lightning_advreg.reporting import image_grid


class SamplesAndNeighbours(Callback):
    """Show samples, and below each the training image that is nearest to it in L2 distance of pixels.

    If both rows are the same, the generator has learnt images by heart; the distance of pixels finds copies, not images
    of the same thing. Training images are the first ``max_images`` of each process that the module is given in its
    first epoch, augmented where they are; they are kept as bytes on its device, and are no part of checkpoints, so that
    a run that goes on collects those that it sees first. At the end of a training epoch the grid ``nearest_neighbours``
    goes where :func:`~lightning_advreg.callbacks.log_image` sends it.

    Args:
        num_images: Samples to show, from the module's first rows of ``fixed_latent``.
        every_n_epochs: Show them at the end of every n-th epoch.
        max_images: How many training images to search, on each process.

    Raises:
        TypeError: If the module lacks ``fixed_latent`` or ``sample``, or batches do not begin with images.
        ValueError: If a number is below 1, or ``fixed_latent`` has too few rows.

    Example:
        >>> SamplesAndNeighbours(num_images=10, every_n_epochs=5).max_images
        50000
    """

    def __init__(self, num_images: int = 10, every_n_epochs: int = 1, max_images: int = 50_000) -> None:
        super().__init__()
        self.num_images = check_positive(num_images, "num_images")
        self.every_n_epochs = check_positive(every_n_epochs, "every_n_epochs")
        self.max_images = check_positive(max_images, "max_images")
        self._kept: list[Tensor] = []
        self._epoch = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that the module can generate."""
        check_generates(pl_module, "SamplesAndNeighbours", rows=self.num_images)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the images of an earlier run."""
        self._kept, self._epoch = [], trainer.current_epoch

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Keep the images, while some are missing."""
        missing = self.max_images - sum(len(part) for part in self._kept)
        if missing > 0 and trainer.current_epoch == self._epoch:
            images = images_of(batch, "SamplesAndNeighbours")[:missing].detach()
            self._kept.append(to_bytes(images))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Generate, search and show, if this epoch is due."""
        if not self._kept or not due(trainer, self.every_n_epochs):
            return
        z: Tensor = pl_module.fixed_latent[: self.num_images]  # type: ignore[index]
        samples = generated(pl_module, z, cycled_labels(pl_module, len(z)))
        self._kept = [torch.cat(self._kept)]
        found = ranks_of(trainer).gather(nearest(samples, self._kept[0]))
        distances = torch.stack([distance for _, distance in found])
        neighbours = torch.stack([images for images, _ in found])
        chosen = neighbours[distances.argmin(0), torch.arange(len(z))]
        log_image(
            trainer,
            "nearest_neighbours",
            _in_pairs(samples, chosen),
            step=trainer.current_epoch + 1,
            batch=batches_trained(trainer),
        )


def nearest(images: Tensor, among: Tensor, *, at_once: int = 4096) -> tuple[Tensor, Tensor]:
    """Find the image that is nearest in L2 distance of pixels.

    Args:
        images: ``(n, C, H, W)`` in [0, 1].
        among: Where to search, uint8 ``(N, C, H, W)``; the search runs on its device.
        at_once: How many of these to compare in one step.

    Returns:
        For each image the nearest one, ``(n, C, H, W)`` in [0, 1], and its distance, ``(n,)``, both on the CPU.
    """
    flat = images.to(among.device).flatten(1)
    distances = [torch.cdist(flat, part.flatten(1) / 255) for part in among.split(at_once)]
    distance, index = torch.cat(distances, dim=1).min(1)
    return (among[index] / 255).cpu(), distance.cpu()


def _in_pairs(above: Tensor, below: Tensor, columns: int = 10) -> Tensor:
    """Lay samples out in rows, each followed by the row of their neighbours."""
    rows = [part for pair in zip(above.split(columns), below.split(columns), strict=True) for part in pair]
    white = columns - len(rows[-1]) if len(above) > columns else 0
    # the last two rows may be shorter than the others
    rows[-2:] = [torch.cat([row, torch.ones(white, *row.shape[1:])]) for row in rows[-2:]]
    return image_grid(torch.cat(rows), columns=min(columns, len(above)))
