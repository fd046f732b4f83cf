"""What the two networks of a GAN minimise, and how they step."""

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from lightning_advreg.attacks import borrowed, in_mode
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.augmentations import DiscriminatorAugmentation
from lightning_advreg.checks import check_statistics
from lightning_advreg.modules.gan_average import generate
from lightning_advreg.modules.gan_base import GANBase
from lightning_advreg.modules.gan_passes import Passes
from lightning_advreg.modules.gan_verdict import Verdict
from lightning_advreg.modules.penalties import add_penalties, add_values
from lightning_advreg.objectives import GANLoss
from lightning_advreg.penalties import CriticPass, CriticPenalty, TrainingPass
from lightning_advreg.penalties.critic import Which
from lightning_advreg.penalties.critic_consistency import ImageFunction
from lightning_advreg.penalties.critic_in_training import due, evaluate_critic
from lightning_advreg.penalties.in_training import watching
from lightning_advreg.schedules import Schedule

_TRIED = 4
"""How many images are enough to find out what the networks do with them."""


class GANLosses(GANBase):
    """The losses of both networks, with their penalties, and the steps that follow; a subclass has the settings."""

    loss: GANLoss
    auxiliary_weight: float
    auxiliary_on_generated: bool
    feature_matching: float
    top_k: float | Schedule
    discriminator_augmentation: DiscriminatorAugmentation | ImageFunction | None
    instance_noise: float
    instance_noise_images: int
    accumulate_grad_batches: int
    passes: Passes

    def discriminator_loss(self, real: Tensor, y: Tensor | None = None) -> Tensor:
        """Give the discriminator's loss, without penalties, on real images and as many generated ones.

        Args:
            real: Real images ``(N, C, H, W)``.
            y: Their labels ``(N,)``, of a conditional GAN.
        """
        return self._compare(*self._judge_both(real, y), y)

    def generator_loss(self, real: Tensor, y: Tensor | None = None) -> Tensor:
        """Give the generator's loss, without penalties, on as many images as there are real ones.

        Args:
            real: Real images ``(N, C, H, W)``, which are scored where the loss compares with them.
            y: Their labels ``(N,)``, of a conditional GAN.
        """
        compares = self.loss.needs_real or self.feature_matching > 0
        made, self._made = self._made, None
        labels = y if compares or made is not None else self.labels(len(real))
        if made is None:
            made = self.passes.generate(self.generator, self.noise(len(real)), labels, eager=self._eager("g"))
        fake = self._judge(self._shown(made), labels)
        logits, of_real = fake.logits, None
        if compares:
            with torch.no_grad(), in_mode(self.discriminator, "batch_stats"):
                of_real = self._judge(self._shown(real), y)
        kept = self._best(logits)
        if self.loss.needs_real and of_real is not None:
            loss = self.loss.generator(logits[kept], of_real.logits[kept])
        else:
            loss = self.loss.generator(logits[kept])
        if self.feature_matching > 0 and fake.features is not None and of_real is not None:
            loss = loss + self._match(fake.features, cast(Tensor, of_real.features))
        return loss if fake.classes is None else loss + self._auxiliary("g", fake.classes, labels)

    @property
    def noise_level(self) -> float:
        """Standard deviation of the instance noise now, in pixel units."""
        return self.instance_noise * max(0.0, 1 - self.images_seen / self.instance_noise_images)

    def _discriminator_objective(self, real: Tensor, y: Tensor | None) -> Tensor:
        epoch, network = self._epoch, self.discriminator
        with watching(self.penalties["d"], network) as watched:
            on_real, on_fake = self._judge_both(real, y)
            loss = self._compare(on_real, on_fake, y)
        seen = TrainingPass(network, watched=watched)
        loss = add_penalties(self, "train/d_penalty", self.penalties["d"], seen, epoch, loss)
        step = CriticPass(
            network,
            on_real.images,
            on_fake.images,
            self.for_discriminator(y),
            real_logits=on_real.logits,
            fake_logits=on_fake.logits,
        )
        values = evaluate_critic(self.critic_penalties, step, epoch, self.discriminator_steps)
        if (update := getattr(self.discriminator_augmentation, "update_", None)) is not None:
            update(on_real.logits.detach())
        return add_values(self, "train/d_penalty", values, loss)

    def _generator_objective(self, real: Tensor, y: Tensor | None) -> Tensor:
        with watching(self.penalties["g"], self.generator) as watched:
            loss = self.generator_loss(real, y)
        seen = TrainingPass(self.generator, watched=watched)
        return add_penalties(self, "train/g_penalty", self.penalties["g"], seen, self._epoch, loss)

    def _prepare(self, real: Tensor, y: Tensor | None, *, first: bool) -> None:
        """Check the first batch of an epoch, and find out what its passes allow, also where a run goes on after it."""
        if not first and self.passes.tried:
            return
        few = slice(0, _TRIED)
        # no random numbers, so that an engine leaves them as they are
        z = torch.zeros(len(real[few]), self.latent_dim, device=self.device)
        labels = () if y is None else (y[few],)
        seen = (real[few], *(() if self.for_discriminator(y) is None else labels))
        self.passes.try_layout(self.generator, self.discriminator, (z, *labels), seen)
        if first:
            self.check_batch(real, y)
            for name in ("generator", "discriminator"):
                check_statistics(getattr(self, name), len(real), name)
        self.passes.try_joining(self.discriminator, seen, split=self._split)
        self.passes.tried = True

    def _eager(self, key: str) -> bool:
        """Say whether a penalty watches layers of a network, one pass after another, or differentiates it twice."""
        return any(getattr(penalty, "eager", False) for penalty in self.penalties[key].values())

    def _accumulate(
        self, key: str, optimizer: LightningOptimizer, objective: Callable[[], Tensor], *, first: bool, last: bool
    ) -> Tensor:
        """Add the gradient of one batch to those of its window, with the last one take a step; give the loss."""
        network = self.discriminator if key == "d" else self.generator
        with optimizer.toggle_model(sync_grad=last):
            loss = objective()
            self.log(f"train/{key}_loss", loss.detach(), prog_bar=True)
            if first:
                optimizer.zero_grad()
            batches = self.accumulate_grad_batches
            self.manual_backward(loss if batches == 1 else loss / batches)
            if last:
                optimizer.step()
        if last:
            self._limits(key).project_(network, self._epoch + 1 / self.trainer.num_training_batches)
        return loss.detach()

    def _judge_both(self, real: Tensor, y: Tensor | None) -> tuple[Verdict, Verdict]:
        # BatchNorm of the generator normalises by the batch as ever, but only its own steps move running statistics
        with borrowed(self.generator, "batch_stats"), torch.no_grad():
            made = generate(self.generator, self.noise(len(real)), y) if self._made is None else self._made
            fake = made.detach()
        shown: dict[Which, Tensor] = {"real": self._shown(real), "fake": self._shown(fake)}
        for which in self._differentiated():
            shown[which] = shown[which].detach().requires_grad_()
        labels = self.for_discriminator(y)
        on_real, on_fake = self.passes.judge_both(
            self.discriminator, shown["real"], shown["fake"], labels, split=self._split, eager=self._eager("d")
        )
        self.log_dict({"train/d_real": on_real.logits.detach().mean(), "train/d_fake": on_fake.logits.detach().mean()})
        return on_real, on_fake

    def _judge(self, images: Tensor, y: Tensor | None) -> Verdict:
        labels = self.for_discriminator(y)
        return self.passes.judge(self.discriminator, images, labels, split=self._split, eager=self._eager("d"))

    def _compare(self, on_real: Verdict, on_fake: Verdict, y: Tensor | None) -> Tensor:
        loss = self.loss.discriminator(on_real.logits, on_fake.logits)
        if on_real.classes is not None:
            loss = loss + self._auxiliary("d", on_real.classes, y)
        if on_fake.classes is not None and self.auxiliary_on_generated:
            loss = loss + self._auxiliary("d_generated", on_fake.classes, y)
        return loss

    def _differentiated(self) -> set[Which]:
        """Say by which images of the step, if any, a penalty differentiates the logits that the step has."""
        # under autocast these are too coarse, and the penalty takes a pass of its own
        if torch.is_autocast_enabled(self.device.type):
            return set()
        asked = [p for p in self.critic_penalties.values() if due(p, self._epoch, self.discriminator_steps)]
        return {p.differentiates for p in asked if isinstance(p, CriticPenalty) and p.differentiates is not None}

    def _shown(self, images: Tensor) -> Tensor:
        """Give images as the discriminator sees them in training."""
        if self.discriminator_augmentation is not None:
            images = self.discriminator_augmentation(images)
        level = self.noise_level
        if level > 0:
            # a tensor of the CPU: a plain number would be copied to the device, and waited for
            self.log("train/instance_noise", torch.tensor(level, device="cpu"))
            # in the usual layout: in another one, the same random numbers would fall on other pixels
            images = images + level * torch.randn_like(images, memory_format=torch.contiguous_format)
        return self.passes.laid_out(images)

    def _best(self, logits: Tensor) -> Tensor | slice:
        """Give the places of the generated images that the generator learns from."""
        share = self.top_k.value(self._epoch) if isinstance(self.top_k, Schedule) else self.top_k
        count = max(1, round(share * len(logits)))
        return slice(None) if count >= len(logits) else logits.topk(count).indices

    def _match(self, fake: Tensor, real: Tensor) -> Tensor:
        difference = working_precision(fake).mean(0) - working_precision(real).mean(0)
        value = self.feature_matching * difference.square().sum()
        self.log("train/g_feature_matching", value.detach())
        return value

    def _auxiliary(self, key: str, classes: Tensor, y: Tensor | None) -> Tensor:
        value = self.auxiliary_weight * F.cross_entropy(working_precision(classes), cast(Tensor, y))
        self.log(f"train/{key}_auxiliary", value.detach())
        return value

    @property
    def _split(self) -> bool:
        return super()._split or self.feature_matching > 0

    @property
    def _epoch(self) -> float:
        """The number of epochs done, with its fraction; 0 outside of training."""
        if self._trainer is None:
            return 0.0
        return self.current_epoch + self.trainer.fit_loop.batch_idx / self.trainer.num_training_batches
