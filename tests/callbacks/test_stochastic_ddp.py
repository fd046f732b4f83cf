"""Noise, mixup and clipped gradients in two processes: each draws for itself, and the weights stay one."""

from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from lightning_advreg.augmentations import InputNoise, MixUp
from lightning_advreg.callbacks import ActivationNoise, AdaptiveGradientClipping, BatchAugmentation

from .foreign import Foreign, loader, trainer


class Watched(Foreign):
    """Both processes have the same images, so that whatever differs was drawn."""

    def __init__(self):
        super().__init__()
        self.network[4].p = 0.0
        self.seen, self.noisy = [], []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch)
        hook = self.network[2].register_forward_pre_hook(lambda _, args: self.noisy.append(args[0].detach()))
        loss = super().training_step(batch, batch_idx)
        hook.remove()
        return loss


class Saved(Callback):
    def __init__(self, folder):
        self.folder = str(folder)

    def on_train_end(self, trainer, pl_module):
        clipped = trainer.callback_metrics["train/agc/clipped"]
        saved = dict(pl_module.state_dict()), pl_module.seen, pl_module.noisy, clipped
        torch.save(saved, Path(self.folder, f"{trainer.global_rank}.pt"))


def in_pair(folder):
    callbacks = (
        BatchAugmentation([InputNoise(std=0.1), MixUp(alpha=0.4)], num_classes=2),
        ActivationNoise(0.1, "network.1"),
        AdaptiveGradientClipping(0.01),
    )
    settings = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": False, "limit_val_batches": 0}
    trainer(folder, *callbacks, Saved(folder), **settings).fit(Watched(), loader(16))


def test_each_process_draws_for_itself_and_the_weights_stay_one(pair):
    (first, seen, noisy, clipped), (second, others, noises, _) = (torch.load(pair / f"{i}.pt") for i in range(2))
    parameters = [name for name, _ in Watched().named_parameters()]
    assert all(first[name].equal(second[name]) for name in parameters)
    assert any(not first[name].equal(Watched().state_dict()[name]) for name in parameters)
    assert len(seen) == len(others) == 4 and 0 < clipped <= 1
    for (x, y), (other, labels) in zip(seen, others, strict=True):
        assert not x.equal(other) and not y.equal(labels) and torch.all(y.sum(1).isclose(torch.ones(4)))
    assert all(not a.equal(b) for a, b in zip(noisy, noises, strict=True))
