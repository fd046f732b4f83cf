"""Run an attack inside somebody's training without leaving a trace in it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from lightning_advreg.attacks import borrowed, seeded

_LAYERS = ("_parameters", "_buffers", "_modules")


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


class Logits(nn.Module):
    """A LightningModule as an attack sees it: from images to logits.

    An attack that searches on a fast copy copies this. The copy shares all with the module but layers, weights and
    buffers: it has no use for optimizers, hyper-parameters and data, of which LightningCLI makes some that cannot be
    copied.

    Args:
        module: The module.

    Example:
        >>> module = pl.LightningModule()
        >>> module.layer, module.optimizer = nn.Linear(2, 2), (None for _ in range(3))  # nobody can copy a generator
        >>> fast = copy.deepcopy(Logits(module)).module
        >>> fast.layer is module.layer, fast.optimizer is module.optimizer
        (False, True)
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Give the module's logits."""
        logits: Tensor = self.module(x)
        return logits

    def __deepcopy__(self, memo: dict[int, object]) -> "Logits":
        shared = {name: value for name, value in vars(self.module).items() if name not in _LAYERS}
        memo |= {id(value): value for value in shared.values()}
        copied = Logits(copy.deepcopy(self.module, memo))
        copied.training = self.training
        return copied


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
