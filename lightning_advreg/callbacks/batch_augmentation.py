"""Augmentation of training batches of any LightningModule."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_advreg.attacks.randomness import seeded, stream_of
from lightning_advreg.augmentations import Augmentation
from lightning_advreg.callbacks.batches import KEYS, Keys, checked_keys, put_together, taken_apart
from lightning_advreg.callbacks.changed_batches import BatchChange
from lightning_advreg.callbacks.pixel_units import PixelUnits

AnyAugmentation: TypeAlias = Augmentation | Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""An augmentation of this library, or a function from images and labels to these, such as a torchvision v2 one."""


class BatchAugmentation(BatchChange):
    """Augment the training batches of a LightningModule, without a change to its code.

    While ``fit`` runs, images and labels of each batch go through the ``augmentations``, in their order, before
    ``training_step`` sees them: on the device, a whole batch at once. It makes no difference which loader they come
    from. Batches themselves are never written to. Validation and test are left alone. Beside ``AdversarialTraining``,
    the callback that comes first in the Trainer's list acts first: augment, then attack.

    ``MixUp`` and ``CutMix`` give labels as shares of classes ``(N, K)``. ``F.cross_entropy`` takes these as they are,
    and so does ``RegularizedClassifier``, whose ``train/acc`` then counts the class with the largest share. An attack
    needs one class per image: for mixup of attacked images there is the objective ``AdversarialMixup``.

    What is drawn depends on the seed of the run (``seed_everything``), the epoch, the batch and the process alone. So a
    run that continues from a checkpoint goes on as it would have, whatever module it is, and processes draw different
    numbers. A batch that is replayed is augmented once.

    Images are pixels in [0, 1]. Where the data come normalised, give the ``mean`` and ``std`` they were normalised
    with. Batches are ``(x, y)``, ``[x, y]``, or have both at the two ``keys``. The first batch is
    checked.

    Args:
        augmentations: What to do, in this order: objects such as ``InputNoise()``, or functions ``(x, y) -> (x, y)``,
            which any transform of ``torchvision.transforms.v2`` is; such a transform draws once for the batch.
        num_classes: The number of classes, where labels are mixed; None asks the data module.
        mean: What was subtracted from each channel of the images, in [0, 1]; None for images in [0, 1].
        std: What each channel was divided by then, positive.
        keys: Where a batch has its images and labels: keys of a dict, such as ``("pixels", "class")``, or places in a
            tuple, such as ``(0, 1)``. Pairs need none.

    Raises:
        TypeError: If an augmentation cannot be called; in ``fit``, if a batch is of another kind.
        ValueError: If an argument is out of its range; in ``fit``, if pixels or labels are out of range, or the number
            of classes is not known.

    Example:
        >>> from lightning_advreg.augmentations import Cutout, MixUp
        >>> callback = BatchAugmentation([Cutout(size=8), MixUp(alpha=0.2)], num_classes=10)
        >>> trainer = pl.Trainer(callbacks=[callback], logger=False)
    """

    def __init__(
        self,
        augmentations: Sequence[AnyAugmentation],
        num_classes: int | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        keys: Keys = KEYS,
    ) -> None:
        super().__init__()
        if not isinstance(augmentations, Sequence) or not all(callable(a) for a in augmentations):
            raise TypeError(
                "augmentations must be a list of objects such as InputNoise(std=0.1), or of functions from images and "
                f"labels to these, got {augmentations!r}."
            )
        if num_classes is not None and (isinstance(num_classes, bool) or num_classes < 2):
            raise ValueError(f"num_classes must be at least 2, or None to ask the data module, got {num_classes!r}.")
        self.augmentations = tuple(augmentations)
        self.num_classes = num_classes
        self.mean, self.std = mean, std
        self.keys = checked_keys(keys)
        self._units = PixelUnits(mean, std, type(self).__name__)
        self._mixes = any(getattr(a, "mixes_labels", False) for a in self.augmentations)
        self._checked = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stand between the Trainer and ``training_step``."""
        self._checked = False
        super().on_fit_start(trainer, pl_module)

    def augment(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Augment pixels and labels, drawing from the random generators as they are.

        Args:
            x: Images ``(N, C, H, W)`` in [0, 1].
            y: Labels: indices ``(N,)``, or shares of classes where they are mixed.

        Returns:
            Both, augmented.
        """
        for augmentation in self.augmentations:
            x, y = augmentation(x, y)
        return x, y

    def changed(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object) -> object:
        """Give the augmented batch."""
        x, y = taken_apart(batch, self.keys, type(self).__name__)
        # no gradient goes through it, whatever the module asks for later
        with torch.no_grad(), seeded(self._stream(trainer), x.device):
            pixels, labels = self.augment(*self._prepared(trainer, x, y))
        return put_together(batch, self.keys, self._units.as_given(pixels, x.dtype), labels)

    def _stream(self, trainer: pl.Trainer) -> int | None:
        place = self._batch_idx * trainer.world_size + trainer.global_rank
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        others = [callback for callback in callbacks if isinstance(callback, BatchAugmentation)]
        # the seed that the generator was last given, which checkpoints of our modules keep with its state
        batch = stream_of(torch.initial_seed(), trainer.current_epoch, place)
        return stream_of(batch, others.index(self), 0)

    def _prepared(self, trainer: pl.Trainer, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        pixels = self._units.pixels(x)
        if not self._checked:
            self._units.check(pixels)
        num_classes = self._classes(trainer) if self._mixes and not y.is_floating_point() else None
        if num_classes is not None:
            if not self._checked and int(y.max()) >= num_classes:
                raise ValueError(
                    f"labels go up to {int(y.max())}, but there are {num_classes} classes; set num_classes of "
                    "BatchAugmentation, or renumber the labels from 0."
                )
            y = one_hot(y, num_classes).to(torch.promote_types(pixels.dtype, torch.float32))
        self._checked = True
        return pixels.clamp(0, 1), y

    def _classes(self, trainer: pl.Trainer) -> int:
        found = self.num_classes
        if found is None:
            found = getattr(getattr(trainer, "datamodule", None), "num_classes", None)
        if not isinstance(found, int):
            raise ValueError(
                "labels can be mixed only where the number of classes is known, and the data do not tell; give it: "
                "BatchAugmentation(augmentations, num_classes=10)."
            )
        return found
