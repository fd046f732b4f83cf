"""Augmentation of what a discriminator sees, as much as it overfits."""

import torch
import torch.distributed
from torch import Tensor, nn

from lightning_advreg.augmentations.base import DiscriminatorAugmentation
from lightning_advreg.augmentations.diff_augment import DiffAugment
from lightning_advreg.recorded import Recorded
from lightning_advreg.values import Number, to_float


class AdaptiveAugment(Recorded, nn.Module, DiscriminatorAugmentation):
    """Adaptive discriminator augmentation, ADA (Karras et al. 2020, section 3): only as strong as overfitting asks for.

    Each change of ``augmentation`` is made to each image with probability ``p``, which starts at 0. Overfitting shows
    in ``r_t = E[sign(D(x))]`` over real training images (eq. 1): near 0 while the discriminator is in doubt, near 1
    when it knows them by heart. Every ``interval`` batches ``p`` moves by ``images / images_to_full``, up where ``r_t``
    is above ``target``, down where it is below. As ``p < 1`` leaves images as they are often enough, the generator
    learns the images and not their augmentations; the paper saw that hold up to 0.8, the bound here.

    The paper's pipeline also flips, rotates, scales and filters. State is in buffers and decisions are made on the
    device, over all processes, so that a run resumes exactly and nothing waits.

    Args:
        augmentation: What is done; None for all of ``DiffAugment``.
        target: The share to steer ``r_t`` to, in (-1, 1).
        images_to_full: How many real images take ``p`` from 0 to 1.
        interval: Batches between two moves.
        maximum: The largest ``p``, in (0, 1].

    Attributes:
        p: The probability now, a buffer.
        r: The last ``r_t``, a buffer.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> augment = AdaptiveAugment(images_to_full=1000, interval=1)
        >>> augment.update_(torch.full((100,), 2.0))  # sure of all real images
        >>> round(augment.p.item(), 4), augment.r.item()
        (0.1, 1.0)
    """

    p: Tensor
    r: Tensor
    sums: Tensor

    def __init__(
        self,
        augmentation: DiffAugment | None = None,
        target: Number = 0.6,
        images_to_full: int = 500_000,
        interval: int = 4,
        maximum: Number = 0.8,
    ) -> None:
        super().__init__()
        self.augmentation = DiffAugment() if augmentation is None else augmentation
        self.target = to_float(target, "target", minimum=-1, below=1)
        self.images_to_full = _at_least_one(images_to_full, "images_to_full")
        self.interval = _at_least_one(interval, "interval")
        self.maximum = to_float(maximum, "maximum", minimum=0, maximum=1)
        if self.maximum == 0:
            raise ValueError(f"maximum must be above 0, got {maximum!r}; for no augmentation leave it out.")
        self.register_buffer("p", torch.zeros(()))
        self.register_buffer("r", torch.zeros(()))
        # signs, images and batches since the last move
        self.register_buffer("sums", torch.zeros(3))

    def forward(self, images: Tensor) -> Tensor:
        """Augment images ``(N, C, H, W)`` in [0, 1] as strongly as now due; differentiable."""
        return self.augmentation(images, self.p)

    @torch.no_grad()
    def update_(self, real_logits: Tensor) -> None:
        """Count a batch, and move ``p`` if it is time.

        Args:
            real_logits: What the discriminator gave for augmented real images in its step, ``(N,)``. Every process
                calls this with its own.
        """
        signs = real_logits.detach().sign().sum(dtype=torch.float32)
        added = torch.stack([signs, torch.full_like(signs, real_logits.numel())])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(added)
        self.sums += torch.cat([added, torch.ones_like(added[:1])])
        total, images, batches = self.sums
        due = batches >= self.interval
        share = total / images
        moved = (self.p + (share - self.target).sign() * images / self.images_to_full).clamp(0, self.maximum)
        self.p.copy_(torch.where(due, moved, self.p))
        self.r.copy_(torch.where(due, share, self.r))
        self.sums.mul_(~due)


def _at_least_one(value: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
    return value
