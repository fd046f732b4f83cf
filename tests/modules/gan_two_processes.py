"""What test_gan_ddp.py runs in two processes."""

from functools import partial

import torch

from lightning_advreg import GAN
from lightning_advreg.objectives import NonSaturating, RpGAN
from lightning_advreg.penalties import R1, R2, Consistency, LeCam

from .gan_parts import ConditionalGenerator, SplitDiscriminator
from .parts import trainer
from .two_processes import batches

KINDS = {
    "plain": {"loss": RpGAN(), "size": 16},
    "critic": {"loss": RpGAN(), "size": 16, "n_critic": 2},
    "accumulated": {"loss": RpGAN(), "size": 8, "accumulate_grad_batches": 2, "gradient_clip_val": 0.05},
    "auxiliary": {"loss": NonSaturating(real_label=0.9), "size": 16, "auxiliary_on_generated": True},
}


class Shared(GAN):
    """Every process has its share of the noise and the labels that one process would draw."""

    def _mine(self, draw, count):
        self.draws = getattr(self, "draws", 0) + 1
        stream = torch.Generator().manual_seed(self.draws)
        return draw(count * self.trainer.world_size, stream)[self.trainer.global_rank :: self.trainer.world_size]

    def noise(self, count):
        return self._mine(lambda n, stream: torch.randn(n, self.latent_dim, generator=stream), count)

    def labels(self, count):
        return self._mine(lambda n, stream: torch.randint(10, (n,), generator=stream), count)


def brighter(x):
    return x + 0.1


def fit(kind, rank=0, processes=1, **settings):
    torch.manual_seed(1)
    arguments = dict(KINDS[kind])
    size = arguments.pop("size")
    sgd = partial(torch.optim.SGD, lr=0.5)
    penalties = [R1(1.0, every=2), R2(0.5), LeCam(0.3, start_step=1), Consistency(1.0, augmentation=brighter)]
    model = Shared(
        ConditionalGenerator(num_classes=10),
        SplitDiscriminator(num_classes=10, auxiliary=10),
        critic_penalties=[] if kind == "plain" else penalties,
        generator_optimizer=sgd,
        discriminator_optimizer=sgd,
        **arguments,
    )
    settings = {"use_distributed_sampler": False, "precision": "64-true", "max_epochs": 2, **settings}
    trainer(limit_val_batches=0, **settings).fit(model, batches(size, rank, processes))
    return dict(model.state_dict())
