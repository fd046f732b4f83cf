"""A trained module and its checkpoint, and ways to spoil it."""

import torch

from ..modules.parts import conv, digits, regularized, trainer


def trained(path, **settings):
    torch.manual_seed(0)
    model = regularized(network=conv(norm="batch"), **settings)
    fitting = trainer(limit_train_batches=2, limit_val_batches=0)
    fitting.fit(model, datamodule=digits())
    fitting.save_checkpoint(path)
    return model


def edited(source, target, change):
    """Save a checkpoint again after ``change(stored)``."""
    stored = torch.load(source, weights_only=True)
    torch.save(change(stored) or stored, target)
    return target
