"""Run an attack inside somebody's training without leaving a trace in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_advreg.attacks import borrowed, seeded


@contextmanager
def isolated_rng(device: torch.device, offset: int = 0) -> Iterator[None]:
    """Draw from a stream of its own, and give the caller's random generators back as they were.

    The stream depends on the run's seed (``seed_everything``) and ``offset`` alone, not on what was drawn before. So
    an evaluation gives the same result after any training, and different batches get different random starts.

    Args:
        device: Where random numbers are drawn, beside the CPU.
        offset: Tells streams of one run apart.
    """
    # initial_seed reads the seed that the generator was last given, and draws nothing
    with seeded((torch.initial_seed() + offset) % 2**63, device):
        yield


@contextmanager
def evaluation(module: pl.LightningModule, device: torch.device, offset: int = 0) -> Iterator[None]:
    """Put a module into the state in which it is attacked for evaluation.

    Parameters are frozen, every layer is in eval mode, gradients are on whatever the Trainer set, random numbers come
    from :func:`isolated_rng`, and autocast is off: in half precision small gradients vanish, and the attack with them.
    On exit all of it is as it was.

    Args:
        module: The module.
        device: The device of its images.
        offset: Tells random streams of one run apart.
    """
    with isolated_rng(device, offset), torch.autocast(device.type, enabled=False), borrowed(module):
        yield


def check_classifier(module: pl.LightningModule, callback: str) -> None:
    """Check that a module can be attacked: it must say in ``forward`` how images become logits.

    Raises:
        TypeError: If it does not.
    """
    if not is_overridden("forward", module):
        raise TypeError(
            f"{callback} calls {type(module).__name__} to get logits, but it defines no `forward`; add "
            "`def forward(self, x)` that gives logits (N, K) for images (N, C, H, W) in [0, 1]."
        )


def images_and_labels(batch: object, callback: str) -> tuple[Tensor, Tensor]:
    """Take a batch apart.

    Raises:
        TypeError: If it is not a pair of tensors.
    """
    pair = batch if isinstance(batch, list | tuple) else ()
    if len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
        raise TypeError(
            f"{callback} needs batches (x, y) of images and labels, got {type(batch).__name__}"
            f"{f' of length {len(pair)}' if pair else ''}; turn batches into pairs in the loader's collate_fn, or in "
            "`on_after_batch_transfer` of the module or data module."
        )
    return pair[0], pair[1]
