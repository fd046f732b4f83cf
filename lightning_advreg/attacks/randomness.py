"""Random numbers of an attack, apart from the caller's."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draw from a stream of this seed, and give the caller's random generators back as they were.

    Args:
        seed: Of the CPU's generator, and of the device's; None draws from the caller's generators after all.
        device: Where random numbers are drawn, beside the CPU.

    Example:
        >>> before = torch.get_rng_state()
        >>> with seeded(0, torch.device("cpu")):
        ...     first = torch.rand(1)
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    if seed is None:
        yield
        return
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would seed all devices, of which only one is forked
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def stream_of(seed: int | None, stage: int, first: int) -> int | None:
    """Give the seed of one batch of one stage, far from those of neighbouring seeds, stages and batches.

    Args:
        seed: Of the whole; None stays None.
        stage: Which stage.
        first: The place of the batch's first image in the data.

    Example:
        >>> stream_of(0, 0, 1) == stream_of(0, 1, 0), stream_of(None, 0, 1)
        (False, None)
    """
    if seed is None:
        return None
    return (seed * 0x9E3779B97F4A7C15 + stage * 0xC2B2AE3D27D4EB4F + first * 0x165667B19E3779F9) % 2**63
