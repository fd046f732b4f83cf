"""Two processes on the CPU end with the same weights."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Callback

from lightning_advreg import GAN, AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.constraints import MaxNorm, WeightClip
from lightning_advreg.penalties import L2

from .parts import conv, digits, discriminator, generator, trainer


class SameOnAllRanks(Callback):
    """Fail in the processes unless all of them hold the same parameters, which have moved in so many steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_train_start(self, trainer, module):
        self.start = [p.detach().clone() for p in module.parameters()]

    def on_train_end(self, trainer, module):
        assert trainer.global_step == self.steps
        for parameter in module.parameters():
            everywhere = trainer.strategy.all_gather(parameter.detach())
            assert everywhere.shape[0] == 2
            assert torch.equal(everywhere[0], everywhere[1])
        assert not all(torch.equal(p, start) for p, start in zip(module.parameters(), self.start, strict=True))


def adversarial():
    attack = PGD(eps=0.2, step_size=0.1, steps=1)
    return AdversarialClassifier(
        conv(norm="batch", dropout=0.2), attack=attack, penalties=[L2(1e-3)], constraints=[MaxNorm(0.5)]
    )


def gan():
    return GAN(
        generator(),
        discriminator(dropout=0.3),
        discriminator_constraints=[WeightClip(0.05)],
        instance_noise=0.1,
        n_critic=2,
        num_fixed=2,
        # partials, since the lambdas that are the defaults cannot go to another process
        generator_optimizer=partial(torch.optim.Adam, lr=1e-2),
        discriminator_optimizer=partial(torch.optim.Adam, lr=1e-2),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "strategy", "steps"),
    [(adversarial, "ddp_spawn", 2), (gan, "ddp_spawn_find_unused_parameters_true", 3)],
)
def test_all_processes_end_with_the_same_weights(build, strategy, steps, tmp_path):
    torch.manual_seed(0)
    model = build()
    fitting = trainer(
        strategy=strategy,
        devices=2,
        limit_train_batches=2,
        limit_val_batches=1,
        default_root_dir=tmp_path,
        callbacks=[SameOnAllRanks(steps)],
    )
    fitting.fit(model, datamodule=digits(train_size=64))
    # the weights that come back from the processes meet the limits
    limited = model.network if build is adversarial else model.discriminator
    weights = [w.detach() for w in limited.parameters() if w.dim() > 1]
    if build is adversarial:
        assert max(w.flatten(1).norm(dim=1).max() for w in weights) <= 0.5 + 1e-6
    else:
        assert max(w.abs().max() for w in weights) <= 0.05 + 1e-8
