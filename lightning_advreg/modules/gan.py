"""The generative adversarial network, with manual optimization."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from lightning_advreg.augmentations import DiscriminatorAugmentation
from lightning_advreg.constraints import Constraint
from lightning_advreg.modules.base import by_name
from lightning_advreg.modules.classifier import Batch
from lightning_advreg.modules.engine import Engine
from lightning_advreg.modules.gan_checks import (
    at_least,
    auxiliary_weight_of,
    check_split,
    one_of,
    positive_or_none,
    share_of,
)
from lightning_advreg.modules.gan_losses import GANLosses
from lightning_advreg.modules.gan_passes import Passes, adam
from lightning_advreg.modules.limits import Limits, check_apart
from lightning_advreg.modules.penalties import gan_penalties, states
from lightning_advreg.objectives import GANLoss, NonSaturating
from lightning_advreg.penalties import CriticPenalty, Penalty
from lightning_advreg.penalties.critic_consistency import ImageFunction
from lightning_advreg.penalties.critic_in_training import bind_critic
from lightning_advreg.schedules import Schedule
from lightning_advreg.values import Number, to_float


class GAN(GANLosses):
    """A generator and a discriminator trained against each other (Goodfellow et al. 2014).

    One training step shows a batch of real images, in six phases: generate without gradients, score real and generated
    images, step the discriminator, enforce its hard limits; then, every ``n_critic``-th batch, step the generator
    through the discriminator, enforce its limits and update its moving average. Samples come from that average.

    Networks with the attribute ``num_classes`` are conditional: ``generator(z, y)`` and ``discriminator(x, y)``. The
    discriminator's step has the labels of the batch for real and generated images, so that these come in pairs of one
    class; the generator's step draws classes evenly, unless its loss compares with real images. A discriminator with
    an auxiliary classifier (``features``, ``score`` and ``classify``; Odena et al. 2017) need not take labels.

    Logged are ``train/d_loss``, ``train/g_loss``, ``train/d_real`` and ``train/d_fake`` (mean logits; far apart means
    that the discriminator is winning), ``train/instance_noise``, ``train/d_penalty/<name>`` and
    ``train/g_penalty/<name>`` (and the same with ``_raw``, without the coefficient), ``train/d_auxiliary``,
    ``train/g_auxiliary`` and ``train/g_feature_matching``; ``val/d_real``, ``val/d_fake`` and the same for ``test``.
    Every epoch ends with ``train/d_constraint/<name>/<what>`` and the same for ``g``, as in
    ``RegularizedClassifier``.

    What counts what, under manual optimization:

    - ``trainer.global_step`` counts the steps of both optimizers: ``n_critic + 1`` in a round of ``n_critic`` steps of
      the discriminator and one of the generator, which takes ``n_critic * accumulate_grad_batches`` batches.
    - ``Trainer(max_steps=...)`` ends training after the batch in which ``global_step`` reaches it: with
      ``n_critic=1``, half as many batches.
    - ``ModelCheckpoint(every_n_train_steps=...)`` saves after batches that leave ``global_step`` at a multiple: give a
      multiple of ``n_critic + 1``, which saves after so many rounds.
    - Loggers, ``log_every_n_steps`` and ``val_check_interval`` count batches, pictures of samples epochs.
    - Learning rates are scheduled by epochs: both schedules step at the end of each.
    - ``ema_decay`` is per step of the generator, and the average is part of every checkpoint.
    - ``batches_seen``, ``images_seen``, ``discriminator_steps`` and ``generator_steps`` count what their names say,
      and are kept in checkpoints.

    Args:
        generator: From noise ``(N, latent_dim)``, and labels ``(N,)``, to images ``(N, C, H, W)`` in [0, 1].
        discriminator: From images in [0, 1], and labels, to logits ``(N,)``, one per image, without a sigmoid.
        loss: The pair of losses; None for ``NonSaturating()``.
        generator_penalties: Soft limits on the generator's weights or activations.
        discriminator_penalties: Soft limits on the discriminator's weights or activations.
        critic_penalties: Soft limits on the discriminator by its images, such as ``GradientPenalty``, ``R1`` or
            ``LeCam``, or functions ``(discriminator, real, fake, y) -> scalar``. They see the images as the
            discriminator does, with noise and augmentation.
        generator_constraints: Hard limits on the generator: checked now, enforced after each of its steps.
        discriminator_constraints: Hard limits on the discriminator, such as ``WeightClip(0.01)`` for ``WGAN``.
        n_critic: Discriminator steps per generator step, at least 1.
        auxiliary_weight: The weight of the auxiliary classifier's cross-entropy, at least 0, on real images in the
            discriminator's step and on generated ones in the generator's; None for 1 where there is such a classifier.
        auxiliary_on_generated: Whether the discriminator's step counts the cross-entropy of generated images too.
        feature_matching: The weight, at least 0, of the squared distance between the mean features of real and of
            generated images in the generator's loss (Salimans et al. 2016, section 3.1).
        top_k: The share of generated images, those with the highest logits, that the generator learns from (Sinha et
            al. 2020), in (0, 1]; best a schedule that begins at 1, such as ``Ramp(epochs=50, start=1, end=0.5)``.
        discriminator_augmentation: Any differentiable callable on images ``(N, C, H, W)``, applied to all that the
            discriminator sees in training, real and generated alike, in both steps (Zhao et al. 2020), such as
            ``DiffAugment()``. One that has a method ``update_``, as ``AdaptiveAugment()``, gets the logits of real
            images ``(N,)`` in each step of the discriminator.
        instance_noise: Standard deviation of Gaussian noise on what the discriminator sees in training, real and
            generated alike (Sønderby et al. 2017), in pixel units; falls linearly to 0.
        instance_noise_images: The number of real images after which the noise has fallen to 0.
        ema_decay: Decay of the generator's moving average per generator step, in [0, 1); 0 follows the generator.
        standing_statistics: The number of batches of noise from which the average takes its BatchNorm statistics before
            it samples (Brock et al. 2019), at least 0; 0 takes those of the generator. With ``SyncBatchNorm`` every
            process must sample.
        num_fixed: The number of fixed noise vectors kept for pictures, the buffer ``fixed_latent``; a conditional GAN
            has ``fixed_labels`` too, which cycle through the classes.
        latent_dim: The length of a noise vector; None takes ``generator.latent_dim``.
        reuse_generated: Whether both steps of a batch see the same generated images, made once, as in PyTorch's DCGAN
            tutorial: one pass of the generator fewer, and labels of the batch for the generator too. By default its
            step draws new noise.
        accumulate_grad_batches: Batches per step of either network, at least 1, as the Trainer's argument of this name;
            the last step of an epoch may have fewer. The generator's passes follow the discriminator's step.
        gradient_clip_val: What gradients are clipped to before each step, above 0; None for no clipping.
        gradient_clip_algorithm: ``"norm"`` clips the norm of all gradients of a network, ``"value"`` each number.
        generator_optimizer: From the generator's parameters to an optimizer; None for
            ``Adam(lr=2e-4, betas=(0.5, 0.999))`` (Radford et al. 2016).
        discriminator_optimizer: The same for the discriminator's; another learning rate than the
            generator's makes two time scales (TTUR, Heusel et al. 2017).
        generator_lr_scheduler: From the generator's optimizer to a schedule, stepped every epoch.
        discriminator_lr_scheduler: From the discriminator's optimizer to a schedule, stepped every epoch.
        engine: What makes training fast, or None for none of it; the results are equal up to rounding.

    Raises:
        ValueError: If a number is out of its range, a budget is exceeded, ``latent_dim`` is unknown, the networks are
            built for different classes, the discriminator normalises by the batch under a penalty on the gradients of
            single images, or it does not show the features that are asked for.

    Example:
        >>> from lightning_advreg.networks import MLPDiscriminator, MLPGenerator
        >>> gan = GAN(MLPGenerator(latent_dim=8), MLPDiscriminator(dropout=0.3), num_fixed=4)
        >>> gan.sample(gan.fixed_latent).shape
        torch.Size([4, 1, 28, 28])
    """

    required = ("generator", "discriminator")

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: GANLoss | None = None,
        generator_penalties: Sequence[Penalty | Callable[[nn.Module], Tensor]] = (),
        discriminator_penalties: Sequence[Penalty | Callable[[nn.Module], Tensor]] = (),
        critic_penalties: Sequence[CriticPenalty | Callable[..., Tensor]] = (),
        generator_constraints: Sequence[Constraint] = (),
        discriminator_constraints: Sequence[Constraint] = (),
        n_critic: int = 1,
        auxiliary_weight: Number | None = None,
        auxiliary_on_generated: bool = False,
        feature_matching: Number = 0.0,
        top_k: Number | Schedule = 1.0,
        discriminator_augmentation: DiscriminatorAugmentation | ImageFunction | None = None,
        instance_noise: Number = 0.0,
        instance_noise_images: int = 1_000_000,
        ema_decay: float = 0.999,
        standing_statistics: int = 0,
        num_fixed: int = 64,
        latent_dim: int | None = None,
        reuse_generated: bool = False,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: Number | None = None,
        gradient_clip_algorithm: Literal["norm", "value"] = "norm",
        generator_optimizer: OptimizerCallable | None = None,
        discriminator_optimizer: OptimizerCallable | None = None,
        generator_lr_scheduler: LRSchedulerCallable | None = None,
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(
            generator,
            discriminator,
            latent_dim=latent_dim,
            num_fixed=num_fixed,
            ema_decay=to_float(ema_decay, "ema_decay", minimum=0, below=1),
            standing_statistics=standing_statistics,
        )
        # no default object in the signature: jsonargparse would hand its settings on to whatever class replaces it
        self.loss = NonSaturating() if loss is None else loss
        self.penalties = {"g": gan_penalties(generator, generator_penalties)}
        self.penalties["d"] = gan_penalties(discriminator, discriminator_penalties)
        self.critic_penalties = bind_critic(by_name(critic_penalties), discriminator)
        with_states: dict[str, Mapping[str, object]] = {**self.penalties, "critic": self.critic_penalties}
        self.penalty_states = nn.ModuleDict({key: states(each) for key, each in with_states.items()})
        self.constraints = {"g": tuple(generator_constraints), "d": tuple(discriminator_constraints)}
        check_apart([*generator_constraints, *discriminator_constraints])
        self.limits = nn.ModuleDict({key: Limits(each) for key, each in self.constraints.items()})
        # a fused optimizer undoes a gradient scaler's scale within its step, and clipping comes before that
        default = partial(adam, fused=engine is not None and gradient_clip_val is None)
        self.optimizers_of = {"d": discriminator_optimizer or default, "g": generator_optimizer or default}
        self.schedulers_of = {"d": discriminator_lr_scheduler, "g": generator_lr_scheduler}
        self.n_critic = at_least(n_critic, 1, "n_critic")
        self.auxiliary_on_generated = auxiliary_on_generated
        self.auxiliary_weight = auxiliary_weight_of(
            auxiliary_weight, discriminator, self.num_classes, on_generated=auxiliary_on_generated
        )
        self.feature_matching = to_float(feature_matching, "feature_matching", minimum=0)
        self.top_k = share_of(top_k, "top_k")
        self.discriminator_augmentation = discriminator_augmentation
        self.instance_noise = to_float(instance_noise, "instance_noise", minimum=0)
        self.instance_noise_images = at_least(instance_noise_images, 1, "instance_noise_images")
        self.accumulate_grad_batches = at_least(accumulate_grad_batches, 1, "accumulate_grad_batches")
        self.gradient_clip_val = positive_or_none(gradient_clip_val, "gradient_clip_val")
        self.engine = engine
        self.passes = Passes(engine)
        self.reuse_generated = reuse_generated
        if reuse_generated and (self.accumulate_grad_batches > 1 or self._eager("g")):
            raise ValueError(
                "reuse_generated=True keeps the images of one batch alone, and its generator makes them before any "
                "penalty watches; leave it out, or accumulate_grad_batches and penalties on the generator's layers."
            )
        self.gradient_clip_algorithm = one_of(gradient_clip_algorithm, ("norm", "value"), "gradient_clip_algorithm")
        if self._split:
            check_split(discriminator, "feature_matching" if self.feature_matching else "an auxiliary classifier")
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            self._limits(name[0]).check(network, name)

    def setup(self, stage: str) -> None:
        """Lay the weights out in memory, before a distributed wrapper looks at them."""
        if stage == "fit":
            self.passes.lay_out_(self.generator, self.discriminator)

    def on_fit_end(self) -> None:
        """Drop what only training needs."""
        self.passes.drop()

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Step the discriminator, and every ``n_critic``-th time the generator.

        Returns:
            The losses of the steps under the names that they are logged by, for callbacks: to ask
            ``trainer.callback_metrics`` in every batch would be to wait for the device.
        """
        real, y = self.read(batch)
        self._prepare(real, y, first=batch_idx == 0)
        optimizer_d, optimizer_g = cast("list[LightningOptimizer]", self.optimizers())
        self._window.append((real, y))
        full = len(self._window) == self.accumulate_grad_batches or self.trainer.is_last_batch
        if self.reuse_generated and (self.discriminator_steps + 1) % self.n_critic == 0:
            # before the discriminator's step freezes the generator
            self._made = self.passes.generate(self.generator, self.noise(len(real)), y)
        objective = partial(self._discriminator_objective, real, y)
        loss = self._accumulate("d", optimizer_d, objective, first=len(self._window) == 1, last=full)
        losses = {"train/d_loss": loss}
        self.batches_seen += 1
        self.images_seen += len(real) * self.trainer.world_size
        if full:
            window, self._window = self._window, []
            self.discriminator_steps += 1
            if self.discriminator_steps % self.n_critic == 0:
                of_window: list[Tensor] = []
                for index, (real, y) in enumerate(window, start=1):
                    objective = partial(self._generator_objective, real, y)
                    first, last = index == 1, index == len(window)
                    of_window.append(self._accumulate("g", optimizer_g, objective, first=first, last=last))
                losses["train/g_loss"] = torch.stack(of_window).mean()
                self.generator_steps += 1
                self._average_generator()
        return losses
