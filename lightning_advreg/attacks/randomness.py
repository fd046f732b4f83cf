"""Random numbers of an attack, apart from the caller's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a stream of this seed, and give the caller's random generators back as they were.

    Args:
        seed: Of the CPU's generator, and of the device's.
        device: Where random numbers are drawn, beside the CPU.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded(0, torch.device("cpu")):
        ...     first = torch.rand(1)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would seed all devices, of which only one is forked
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
