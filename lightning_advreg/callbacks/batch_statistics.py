"""Running statistics of BatchNorm for weights that were not trained with it."""

from collections.abc import Iterator
from itertools import islice

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_advreg.attacks import Attack
from lightning_advreg.callbacks.batches import KEYS, Keys, taken_apart
from lightning_advreg.callbacks.isolation import isolated_rng
from lightning_advreg.callbacks.moving_average import exchange_
from lightning_advreg.networks.dual_norm import adversarial_pass, clean_pass, dual_norms


def batch_statistics(
    trainer: pl.Trainer, module: pl.LightningModule, attack: Attack | None, keys: Keys = KEYS
) -> dict[str, Tensor]:
    """Average the batch statistics of each BatchNorm layer over an epoch of training batches, and all processes.

    Layers in eval mode, which are frozen, are left out. The module is left as it was, and random numbers come from a
    stream of their own.

    Args:
        trainer: The Trainer, at the end of training.
        module: The module, in training mode.
        attack: Attack the images first; None takes them as they come.
        keys: Where a batch has its images and labels.

    Returns:
        Means and variances, by the names of the module's buffers.

    Raises:
        TypeError: If a batch has no two tensors there.
    """
    layers = {name: layer for name, layer in module.named_modules() if _follows_batches(layer)}
    names = [f"{name}.{kind}" for name in layers for kind in ("running_mean", "running_var")]
    momenta = {name: layer.momentum for name, layer in layers.items()}
    buffers = dict(module.named_buffers())
    kept = {name: value.clone() for name, value in buffers.items()}
    sums = {name: torch.zeros_like(buffers[name]) for name in names}
    count, has_dual_norms = 0, bool(dual_norms(module))
    try:
        with isolated_rng(module.device), torch.no_grad():
            for batch in islice(_batches(trainer, module), int(trainer.num_training_batches) if layers else 0):
                x, y = taken_apart(batch, keys, "WeightAverage")
                with clean_pass() if attack is None else adversarial_pass():
                    images = x if attack is None else attack(module, x, y)
                for layer in layers.values():
                    # the running statistics become those of this batch
                    layer.momentum = 1.0
                with clean_pass() if attack is None else adversarial_pass():
                    module(images)
                if attack is not None and has_dual_norms:
                    with clean_pass():
                        module(x)
                for name in names:
                    sums[name] += buffers[name]
                count += 1
                # an attack in eval mode uses the statistics, and must not see those of one batch
                exchange_(module, kept)
    finally:
        exchange_(module, kept)
        for name, layer in layers.items():
            layer.momentum = momenta[name]
    return {name: trainer.strategy.reduce(total / count, reduce_op="mean") for name, total in sums.items() if count}


def _follows_batches(layer: nn.Module) -> bool:
    return layer.training and isinstance(getattr(layer, "running_mean", None), Tensor)


def _batches(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[object]:
    for batch in trainer.train_dataloader or ():
        # what Lightning's loop does with a batch before the module sees it
        converted = module._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch))
        yield trainer.strategy.batch_to_device(converted)
