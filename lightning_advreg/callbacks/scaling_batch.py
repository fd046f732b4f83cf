"""What processes share, the images of a step and the statistics of BatchNorm, and what each draws for itself."""

import random
from collections.abc import Iterator, Sequence

import lightning.pytorch as pl
import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from lightning_advreg.data.seeding import seeded_generator

_PLAIN = {kind.forward for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)}


def shared_batch_size(datamodule: object, processes: int) -> int:
    """Give the batch size of each process with which all of them together have that of the DataModule.

    Args:
        datamodule: The DataModule, with an integer ``batch_size`` that its loader is made with.
        processes: The number of processes.

    Raises:
        ValueError: If there is no such batch size, or it does not divide.

    Example:
        >>> from lightning_advreg.data import DigitsDataModule
        >>> shared_batch_size(DigitsDataModule(batch_size=128), 8)
        16
    """
    size = getattr(datamodule, "batch_size", None)
    if isinstance(size, bool) or not isinstance(size, int):
        raise ValueError(
            f"constant_global_batch=True divides the batch_size of the DataModule, and {type(datamodule).__name__} has "
            f"none; give the Trainer a DataModule with an integer batch_size, or divide that of your loaders by "
            f"{processes} and leave constant_global_batch out."
        )
    if size % processes:
        below = size - size % processes
        nearest = " or ".join(str(other) for other in (below, below + processes) if other > 0)
        raise ValueError(
            f"constant_global_batch=True cannot share a batch_size of {size} among {processes} processes evenly; set "
            f"it to {nearest}, or use another number of devices."
        )
    return size // processes


def check_batch_norms(module: nn.Module, device_type: str) -> None:
    """Check that the BatchNorm layers of a module can become SyncBatchNorm.

    Args:
        module: The module.
        device_type: Of the devices it will train on.

    Raises:
        ValueError: If they cannot: there are none, one of them does something of its own, or devices are CPUs.
    """
    norms = {name: layer for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
    if not norms:
        raise ValueError(
            f"sync_batchnorm=True finds no BatchNorm in {type(module).__name__}; leave it out: the other normalisation "
            "layers see one image at a time."
        )
    # timm's BatchNormAct2d has an activation inside, which a SyncBatchNorm in its place would lose
    own = next((name for name, layer in norms.items() if type(layer).forward not in _PLAIN), None)
    if own is not None:
        raise ValueError(
            f"sync_batchnorm=True would lose what layer {own!r}, a {type(norms[own]).__name__}, does beside "
            "normalising; convert the network yourself (timm.layers.convert_sync_batchnorm), or leave it out."
        )
    if device_type == "cpu":
        raise ValueError(
            "sync_batchnorm=True needs GPUs: PyTorch has no SyncBatchNorm for processes on the CPU; leave it out, or "
            "use a network with norm='group'."
        )


@torch.no_grad()
def share_statistics_(wrapped: object) -> None:
    """Give the running statistics of BatchNorm of the first process to all.

    DDP does so before each training step, and not before a validation, where processes would evaluate networks that
    differ by what each has seen in its last step. Checkpoints have those of the first process.

    Args:
        wrapped: The module as the strategy has wrapped it; nothing happens unless it is DDP that shares buffers.
    """
    if not isinstance(wrapped, DistributedDataParallel) or not wrapped.broadcast_buffers:
        return
    norms = [layer for layer in wrapped.modules() if isinstance(layer, _BatchNorm)]
    found = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
    buffers = [buffer for buffer in found if isinstance(buffer, Tensor)]
    if not buffers:
        return
    together = torch.cat([buffer.flatten() for buffer in buffers])
    dist.broadcast(together, 0)
    for buffer, part in zip(buffers, together.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def draw_apart(rank: int) -> None:
    """Seed the generators of this process by its rank, where one seed has made those of all processes alike.

    Args:
        rank: The process; the first one goes on as it is.
    """
    if rank > 0:
        # hashed, so that the second process of seed 0 is not the first one of seed 1
        seed = seeded_generator(torch.initial_seed() % 2**63, rank).initial_seed()
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)


def warn_of_synchronised_attacks(trainer: pl.Trainer, module: nn.Module) -> None:
    """Say so where an attack runs SyncBatchNorm on the statistics of all processes.

    Args:
        trainer: The Trainer, whose callbacks may attack.
        module: The module, as it will train.
    """
    if not any(isinstance(layer, nn.SyncBatchNorm) for layer in module.modules()):
        return
    callbacks: Sequence[object] = trainer.callbacks  # type: ignore[attr-defined]
    for owner in (module, *callbacks):
        mode = next((mode for mode in _modes(getattr(owner, "attack", None)) if mode != "eval"), None)
        if mode is not None:
            rank_zero_warn(
                f"the attack of {type(owner).__name__} runs with model_mode={mode!r} on SyncBatchNorm: each of its "
                "passes waits for all processes, and an image is attacked through statistics that images of other "
                "processes have a part in, which is another attack than that of one process. An attack that takes "
                "different numbers of passes in different processes never ends. Use model_mode='eval', or leave "
                "sync_batchnorm out."
            )


def _modes(attack: object) -> Iterator[str]:
    mode = getattr(attack, "model_mode", None)
    if isinstance(mode, str):
        yield mode
    inner = getattr(attack, "attacks", ())
    # WorstOf holds several
    for each in inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list | tuple) else ():
        yield from _modes(each)
