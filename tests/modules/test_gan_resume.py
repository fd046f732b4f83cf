"""A GAN with all that it remembers goes on bit for bit."""

from functools import partial

import pytest
import torch

from lightning_advreg.augmentations import AdaptiveAugment
from lightning_advreg.objectives import RpGAN
from lightning_advreg.penalties import R1, GradientPenalty, LeCam
from lightning_advreg.schedules import Ramp

from .gan_parts import ConditionalGenerator, SplitDiscriminator, conditional_gan
from .parts import BUILDERS, digits
from .test_resume import InterruptAtBatch, assert_same_run, run


def everything():
    decay = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    return conditional_gan(
        generator=ConditionalGenerator(num_classes=10, batch_norm=True),
        discriminator=SplitDiscriminator(num_classes=10, auxiliary=10),
        loss=RpGAN(),
        critic_penalties=[LeCam(0.3, decay=0.9, start_step=4), R1(1.0, every=3), GradientPenalty(1.0)],
        n_critic=2,
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        feature_matching=0.1,
        top_k=Ramp(epochs=2, start=1, end=0.5),
        standing_statistics=2,
        instance_noise=0.1,
        discriminator_augmentation=AdaptiveAugment(target=-1, images_to_full=400, interval=2),
        generator_lr_scheduler=decay,
        discriminator_lr_scheduler=decay,
    )


@pytest.mark.parametrize("batch", [3, 4])
def test_a_run_stopped_within_an_epoch_ends_with_the_same_bits(batch, tmp_path, monkeypatch):
    monkeypatch.setitem(BUILDERS, "gan", everything)
    whole = run("gan", tmp_path / "whole", {"datamodule": digits()}, seed=0)
    saving = {"every_n_train_steps": 1, "save_top_k": -1}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run("gan", tmp_path / "part", {"datamodule": digits()}, seed=0, callbacks=[InterruptAtBatch(batch)], **saving)
    last = tmp_path / "part" / "last.ckpt"
    resumed = run("gan", tmp_path / "rest", {"datamodule": digits()}, seed=99, ckpt_path=last)
    assert_same_run(whole, resumed)
    assert whole[0].discriminator_steps == resumed[0].discriminator_steps == 9
    assert int(whole[0].critic_penalties["lecam"].seen) == 18
    assert 0.5 < float(whole[0].discriminator_augmentation.p) < 0.8
