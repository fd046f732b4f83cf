"""How fast a run was and on how many processes, as a small file that later runs compare themselves with."""

import dataclasses
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from lightning_advreg.callbacks.scaling_clock import Speed
from lightning_advreg.callbacks.scaling_communication import MEASURED
from lightning_advreg.files import write_json

FILE = "scaling.json"
"""The name of the file in the folder of a run."""

# what must be alike for a comparison to say something about the number of processes
_ALIKE = ("module", "network", "parameters", "precision", "device", "threads")
# a copy of the network is compared with it on a few images an epoch, which count as well
_SAME_ATTACK = 0.05


@dataclass(frozen=True, kw_only=True)
class ScalingRecord:
    """How fast a run was.

    Args:
        processes: The number of processes.
        nodes: The number of machines.
        strategy: The class of the strategy.
        precision: The precision, as the Trainer calls it.
        device: What each process computes on.
        threads: Threads of each process on the CPU.
        module: The class of the LightningModule.
        network: The classes of its parts with parameters.
        parameters: How many numbers are trained.
        batch_per_process: Images per batch and process.
        global_batch: Images per batch over all processes.
        learning_rate_factor: What learning rates were multiplied by.
        epochs: How many epochs the figures are medians of: all but the first, which warms up, where there are more.
        images_per_second: Over all processes.
        attack_passes_per_second: Gradients of images for attacks, over all processes.
        attack_passes_per_image: The same per training image.
        lost_in_communication: A share of the time, on average over processes; None if not measured.
        least_lost_in_communication: That of the process that lost least.
    """

    processes: int
    nodes: int
    strategy: str
    precision: str
    device: str
    threads: int
    module: str
    network: str
    parameters: int
    batch_per_process: int
    global_batch: int
    learning_rate_factor: float
    epochs: int
    images_per_second: float
    attack_passes_per_second: float
    attack_passes_per_image: float
    lost_in_communication: float | None
    least_lost_in_communication: float | None

    def differences(self, other: "ScalingRecord") -> list[str]:
        """Give in what another record is of another run, apart from the number of processes; sentences."""
        found = [
            f"{name}: {getattr(other, name)} there, {getattr(self, name)} here"
            for name in _ALIKE
            if getattr(self, name) != getattr(other, name)
        ]
        passes, others = self.attack_passes_per_image, other.attack_passes_per_image
        if abs(passes - others) > _SAME_ATTACK * max(passes, others):
            found.append(f"attack passes per image: {others:g} there, {passes:g} here")
        if self.batch_per_process != other.batch_per_process and self.global_batch != other.global_batch:
            found.append(
                f"batch: {other.batch_per_process} images per process there, {self.batch_per_process} here, and not as "
                "many over all either"
            )
        return found

    def efficiency(self, single: "ScalingRecord") -> float:
        """Give the images per second over those of as many processes that run alone; 1 is perfect."""
        return self.images_per_second * single.processes / (self.processes * single.images_per_second)


def record_of(
    trainer: pl.Trainer, module: pl.LightningModule, speeds: Sequence[Speed], batch: int, factor: float
) -> ScalingRecord:
    """Describe a run.

    Args:
        trainer: Its Trainer.
        module: Its module.
        speeds: Those of its epochs, at least one.
        batch: Images per batch of a process.
        factor: What learning rates were multiplied by.
    """
    counted = list(speeds[1:] or speeds)
    images = median(speed.images_per_second for speed in counted)
    passes = median(speed.attack_passes_per_second for speed in counted)
    per_image = median(speed.attack_passes_per_second / speed.images_per_second for speed in counted)
    device = trainer.strategy.root_device
    return ScalingRecord(
        processes=trainer.world_size,
        nodes=trainer.num_nodes,
        strategy=type(trainer.strategy).__name__,
        precision=str(trainer.precision),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {platform.machine()}",
        threads=torch.get_num_threads(),
        module=type(module).__name__,
        network=", ".join(type(part).__name__ for part in module.children() if _has_parameters(part)),
        parameters=sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad),
        batch_per_process=batch,
        global_batch=batch * trainer.world_size,
        learning_rate_factor=factor,
        epochs=len(counted),
        images_per_second=images,
        attack_passes_per_second=passes,
        attack_passes_per_image=per_image,
        lost_in_communication=_or_none(median(speed.lost for speed in counted)),
        least_lost_in_communication=_or_none(median(speed.least_lost for speed in counted)),
    )


def write_record(path: Path, record: ScalingRecord, single: ScalingRecord | None = None) -> None:
    """Write a record, and its efficiency where it can be compared, as a whole or not at all.

    Args:
        path: The file; its folder is made.
        record: What to write.
        single: The run on one process that it is compared with, or None.

    Raises:
        OSError: If it cannot be written; the file that was there is as it was.
    """
    content: dict[str, Any] = dataclasses.asdict(record)
    if record.lost_in_communication is not None:
        content["lost_in_communication_is"] = MEASURED
    if single is not None:
        differences = record.differences(single)
        content["compared_with"] = dataclasses.asdict(single)
        content["differences"] = differences
        content["efficiency"] = None if differences else record.efficiency(single)
    write_json(path, content, allow_nan=False)


def read_record(path: Path) -> ScalingRecord:
    """Read what :func:`write_record` has written.

    Raises:
        ValueError: If the file is none of these, or of a run on several processes.
    """
    remedy = "give the file that MultiGPUScaling(baseline=...) writes on one process, or another name to begin anew."
    try:
        content = json.loads(path.read_text())
        assert isinstance(content, Mapping)
        fields = dataclasses.fields(ScalingRecord)
        record = ScalingRecord(**{field.name: content[field.name] for field in fields})
        usable = isinstance(record.images_per_second, int | float) and record.images_per_second > 0
    except (ValueError, AssertionError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"baseline {path.name} is no record of a run ({type(error).__name__}); {remedy}") from None
    if record.processes != 1 or not usable:
        raise ValueError(f"baseline {path.name} is of a run on {record.processes} processes; {remedy}")
    return record


def _has_parameters(part: nn.Module) -> bool:
    return next(part.parameters(), None) is not None


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
