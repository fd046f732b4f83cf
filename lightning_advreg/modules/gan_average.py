"""The moving average of a generator, and the statistics that it samples with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

_STANDING_BATCH = 64


def generate(generator: nn.Module, z: Tensor, y: Tensor | None) -> Tensor:
    """Run a generator on noise ``(N, latent_dim)``, and on labels ``(N,)`` where there are any."""
    images: Tensor = generator(z) if y is None else generator(z, y)
    return images


@torch.no_grad()
def follow_(average: nn.Module, current: nn.Module, decay: float) -> None:
    """Move the parameters of an average towards those of a network, and copy its buffers.

    Averaged statistics of BatchNorm would belong to no set of weights; those of the network are the nearest that there
    is without another pass, and integer buffers, such as counts, have no average at all.

    Args:
        average: The averaged network, of the same layers.
        current: The network.
        decay: What the average keeps of itself, in [0, 1).
    """
    # all at once: on a GPU, a kernel for each tensor would cost more than its arithmetic
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(current.parameters()), None)
    for kept, moving in zip(average.buffers(), current.buffers(), strict=True):
        kept.copy_(moving)


@torch.no_grad()
def take_standing_statistics_(generator: nn.Module, latent_dim: int, num_classes: int | None, batches: int) -> None:
    """Replace the running statistics of BatchNorm by the means over batches of noise (Brock et al. 2019).

    The noise comes from a stream of its own, the same each time, so that the statistics follow from the weights alone
    and no other random numbers are drawn. Layers other than BatchNorm run as in evaluation.

    Args:
        generator: The generator; it is in evaluation mode afterwards.
        latent_dim: The length of a noise vector.
        num_classes: The number of classes, from which labels are drawn, or None.
        batches: The number of batches, of 64 noise vectors each.
    """
    layers = [m for m in generator.eval().modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        return
    stream = torch.Generator().manual_seed(0)
    parameter = next(generator.parameters())
    with _collecting(layers), torch.random.fork_rng([parameter.device] if parameter.is_cuda else []):
        for _ in range(batches):
            z = torch.randn(_STANDING_BATCH, latent_dim, generator=stream).to(parameter)
            y = None if num_classes is None else torch.randint(num_classes, (len(z),), generator=stream).to(z.device)
            generate(generator, z, y)


@contextmanager
def _collecting(layers: list[_BatchNorm]) -> Iterator[None]:
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            # None: the mean over all batches since the reset
            layer.momentum = None
            layer.train()
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()
