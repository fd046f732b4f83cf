"""The generative adversarial network, with manual optimization."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam

from lightning_advreg.attacks import borrowed
from lightning_advreg.checks import check_batch
from lightning_advreg.constraints import Constraint
from lightning_advreg.modules.base import CheckpointedModule
from lightning_advreg.modules.classifier import Batch
from lightning_advreg.modules.gan_checks import at_least, latent_dim_of, one_logit_each
from lightning_advreg.modules.limits import Limits, check_apart
from lightning_advreg.modules.penalties import add_penalties, gan_penalties, states, warn_of_double_decay
from lightning_advreg.modules.schedules import fit_schedules
from lightning_advreg.objectives import GANLoss, NonSaturating
from lightning_advreg.penalties import Penalty, TrainingPass
from lightning_advreg.penalties.in_training import begin, watching
from lightning_advreg.values import Number, to_float


class GAN(CheckpointedModule):
    """A generator and a discriminator trained against each other (Goodfellow et al. 2014).

    One training step shows a batch of real images, in six phases: generate without gradients, score real and generated
    images, step the discriminator, enforce its hard limits; then, every ``n_critic``-th batch, step the generator
    through the discriminator, enforce its limits and update its moving average. Samples come from that average.

    Logged are ``train/d_loss``, ``train/g_loss``, ``train/d_real`` and ``train/d_fake`` (mean logits; far apart means
    that the discriminator is winning), ``train/instance_noise``, ``train/d_penalty/<name>`` and
    ``train/g_penalty/<name>`` (and the same with ``_raw``, without the coefficient); ``val/d_real``, ``val/d_fake`` and
    the same for ``test``. Every epoch ends with ``train/d_constraint/<name>/<what>`` and the same for ``g``, as in
    ``RegularizedClassifier``.

    Lightning counts every step of either optimizer in ``trainer.global_step``; ``batches_seen`` counts batches. Both it
    and ``images_seen`` are kept in checkpoints.

    Args:
        generator: From noise ``(N, latent_dim)`` to images ``(N, C, H, W)`` in [0, 1].
        discriminator: From images in [0, 1] to logits ``(N,)``, one per image, without a sigmoid.
        loss: The pair of losses; None for ``NonSaturating()``.
        generator_penalties: Soft limits on the generator's weights or activations.
        discriminator_penalties: Soft limits on the discriminator's weights or activations.
        generator_constraints: Hard limits on the generator: checked now, enforced after each of its steps.
        discriminator_constraints: Hard limits on the discriminator, such as ``WeightClip(0.01)`` for ``WGAN``.
        n_critic: Discriminator steps per generator step, at least 1.
        instance_noise: Standard deviation of Gaussian noise on what the discriminator sees in training, real and
            generated alike (Sønderby et al. 2017), in pixel units; falls linearly to 0.
        instance_noise_images: The number of real images after which the noise has fallen to 0.
        ema_decay: Decay of the generator's moving average per generator step, in [0, 1); 0 follows the generator.
        num_fixed: The number of fixed noise vectors kept for pictures, the buffer ``fixed_latent``.
        latent_dim: The length of a noise vector; None takes ``generator.latent_dim``.
        generator_optimizer: From the generator's parameters to an optimizer.
        discriminator_optimizer: From the discriminator's parameters to an optimizer; another learning rate than the
            generator's makes two time scales (TTUR, Heusel et al. 2017).
        generator_lr_scheduler: From the generator's optimizer to a schedule, stepped every epoch.
        discriminator_lr_scheduler: From the discriminator's optimizer to a schedule, stepped every epoch.

    Raises:
        ValueError: If a number is out of its range, a budget is exceeded, or ``latent_dim`` is unknown.

    Example:
        >>> from lightning_advreg.networks import MLPDiscriminator, MLPGenerator
        >>> gan = GAN(MLPGenerator(latent_dim=8), MLPDiscriminator(dropout=0.3), num_fixed=4)
        >>> gan.sample(gan.fixed_latent).shape
        torch.Size([4, 1, 28, 28])
    """

    required = ("generator", "discriminator")
    fixed_latent: Tensor

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: GANLoss | None = None,
        generator_penalties: Sequence[Penalty | Callable[[nn.Module], Tensor]] = (),
        discriminator_penalties: Sequence[Penalty | Callable[[nn.Module], Tensor]] = (),
        generator_constraints: Sequence[Constraint] = (),
        discriminator_constraints: Sequence[Constraint] = (),
        n_critic: int = 1,
        instance_noise: Number = 0.0,
        instance_noise_images: int = 1_000_000,
        ema_decay: float = 0.999,
        num_fixed: int = 64,
        latent_dim: int | None = None,
        generator_optimizer: OptimizerCallable = lambda p: Adam(p, lr=2e-4, betas=(0.5, 0.999)),
        discriminator_optimizer: OptimizerCallable = lambda p: Adam(p, lr=2e-4, betas=(0.5, 0.999)),
        generator_lr_scheduler: LRSchedulerCallable | None = None,
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        # no default object in the signature: jsonargparse would hand its settings on to whatever class replaces it
        self.loss = NonSaturating() if loss is None else loss
        self.penalties = {"g": gan_penalties(generator, generator_penalties)}
        self.penalties["d"] = gan_penalties(discriminator, discriminator_penalties)
        self.penalty_states = nn.ModuleDict({key: states(each) for key, each in self.penalties.items()})
        self.constraints = {"g": tuple(generator_constraints), "d": tuple(discriminator_constraints)}
        check_apart([*generator_constraints, *discriminator_constraints])
        self.limits = nn.ModuleDict({key: Limits(each) for key, each in self.constraints.items()})
        self.optimizers_of = {"d": discriminator_optimizer, "g": generator_optimizer}
        self.schedulers_of = {"d": discriminator_lr_scheduler, "g": generator_lr_scheduler}
        self.n_critic = at_least(n_critic, 1, "n_critic")
        self.instance_noise = to_float(instance_noise, "instance_noise", minimum=0)
        self.instance_noise_images = at_least(instance_noise_images, 1, "instance_noise_images")
        self.ema_decay = to_float(ema_decay, "ema_decay", minimum=0, below=1)
        self.latent_dim = latent_dim_of(generator, latent_dim)
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            self._limits(name[0]).check(network, name)
        self.generator_ema = copy.deepcopy(generator).requires_grad_(False)
        noise = torch.randn(at_least(num_fixed, 1, "num_fixed"), self.latent_dim)
        self.register_buffer("fixed_latent", noise)
        self.batches_seen = self.images_seen = self.generator_steps = 0

    def forward(self, z: Tensor) -> Tensor:
        """Give images ``(N, C, H, W)`` for noise ``(N, latent_dim)``, from the averaged generator."""
        return self.sample(z)

    @torch.no_grad()
    def sample(self, z: Tensor) -> Tensor:
        """Give images ``(N, C, H, W)`` in [0, 1] for noise ``(N, latent_dim)``, from the averaged generator."""
        images: Tensor = self.generator_ema.eval()(z)
        return images

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Step the discriminator, and every ``n_critic``-th batch the generator."""
        real = batch[0]
        if batch_idx == 0:
            self.check_batch(real)
        optimizer_d, optimizer_g = cast("list[LightningOptimizer]", self.optimizers())
        with self.toggled_optimizer(optimizer_d):
            self._step("d", optimizer_d, partial(self.discriminator_loss, real))
        self.batches_seen += 1
        self.images_seen += len(real) * self.trainer.world_size
        if self.batches_seen % self.n_critic == 0:
            with self.toggled_optimizer(optimizer_g):
                self._step("g", optimizer_g, partial(self.generator_loss, len(real)))
            self.generator_steps += 1
            self._average_generator()

    def discriminator_loss(self, real: Tensor) -> Tensor:
        """Give the discriminator's loss on real images ``(N, C, H, W)`` and as many generated ones."""
        # BatchNorm of the generator normalises by the batch as ever, but only its own steps move running statistics
        with borrowed(self.generator, "batch_stats"), torch.no_grad():
            fake = self.generator(self.noise(len(real)))
        real_logits, fake_logits = self._score(real), self._score(fake)
        self.log_dict({"train/d_real": real_logits.detach().mean(), "train/d_fake": fake_logits.detach().mean()})
        return self.loss.discriminator(real_logits, fake_logits)

    def generator_loss(self, count: int) -> Tensor:
        """Give the generator's loss on ``count`` generated images."""
        return self.loss.generator(self._score(self.generator(self.noise(count))))

    def noise(self, count: int) -> Tensor:
        """Draw standard normal noise of shape ``(count, latent_dim)``."""
        return torch.randn(count, self.latent_dim, device=self.device)

    @property
    def noise_level(self) -> float:
        """Standard deviation of the instance noise now, in pixel units."""
        return self.instance_noise * max(0.0, 1 - self.images_seen / self.instance_noise_images)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the discriminator's mean logit of held-out real images and of samples."""
        self._evaluate("val", batch[0], batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the discriminator's mean logit of held-out real images and of samples."""
        self._evaluate("test", batch[0], batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give as many samples as the batch has images."""
        return self.sample(self.noise(len(batch[0])))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build two optimizers, the discriminator's first, and their schedules; say so if decay is counted twice."""
        networks = {"d": self.discriminator, "g": self.generator}
        optimizers = {key: build(networks[key].parameters()) for key, build in self.optimizers_of.items()}
        for key, network in networks.items():
            warn_of_double_decay(self.penalties[key], network, optimizers[key])
        schedulers = [build(optimizers[key]) for key, build in self.schedulers_of.items() if build is not None]
        return list(optimizers.values()), schedulers

    def on_fit_start(self) -> None:
        """Make the first weights meet the hard limits, and start the average at them."""
        super().on_fit_start()
        # the weights of a checkpoint meet them already, and rounding would move them
        if self.trainer.ckpt_path is None:
            self._limits("d").project_(self.discriminator, self.current_epoch)
            self._limits("g").project_(self.generator, self.current_epoch)
        self._limits("d").forget()
        self._limits("g").forget()
        begin(self.penalties["d"], self.discriminator)
        begin(self.penalties["g"], self.generator)
        if self.generator_steps == 0:
            self.generator_ema.load_state_dict(self.generator.state_dict())

    def on_train_start(self) -> None:
        """Tell the schedules how many epochs there are."""
        fit_schedules(self.trainer)

    def on_train_epoch_end(self) -> None:
        """Step the schedules, and log how often and how far the hard limits have bitten."""
        for key, network in (("d", self.discriminator), ("g", self.generator)):
            found = self._limits(key).report(network)
            self.log_dict({f"train/{key}_constraint/{name}": value for name, value in found.items()})
        schedulers = self.lr_schedulers() or []
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()  # type: ignore[call-arg]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the counters along."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["gan_counters"] = {name: getattr(self, name) for name in _COUNTERS}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counters along."""
        super().on_load_checkpoint(checkpoint)
        for name, value in checkpoint.get("gan_counters", {}).items():
            setattr(self, name, value)

    def check_batch(self, real: Tensor) -> None:
        """Check the first batch of an epoch, and that both networks fit it.

        Raises:
            TypeError: If images are not floating point.
            ValueError: If pixels lie outside [0, 1], for real or generated images, if these differ in shape, or if the
                discriminator does not give one logit per image.
        """
        check_batch(real)
        with borrowed(self.generator), borrowed(self.discriminator), torch.no_grad():
            fake = self.generator(self.noise(2))
            if fake.shape[1:] != real.shape[1:]:
                raise ValueError(
                    f"the generator makes images of shape {tuple(fake.shape[1:])}, the data has "
                    f"{tuple(real.shape[1:])}; set the generator's image_shape."
                )
            check_batch(fake)
            one_logit_each(self.discriminator(fake), fake)

    def _step(self, key: str, optimizer: LightningOptimizer, objective: Callable[[], Tensor]) -> None:
        network = self.discriminator if key == "d" else self.generator
        epoch = self.current_epoch + self.trainer.fit_loop.batch_idx / self.trainer.num_training_batches
        with watching(self.penalties[key], network) as watched:
            loss = objective()
        seen = TrainingPass(network, watched=watched)
        loss = add_penalties(self, f"train/{key}_penalty", self.penalties[key], seen, epoch, loss)
        self.log(f"train/{key}_loss", loss.detach(), prog_bar=True)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self._limits(key).project_(network, epoch + 1 / self.trainer.num_training_batches)

    def _score(self, images: Tensor) -> Tensor:
        level = self.noise_level
        if level > 0:
            self.log("train/instance_noise", level)
            images = images + level * torch.randn_like(images)
        return one_logit_each(self.discriminator(images), images)

    @torch.no_grad()
    def _average_generator(self) -> None:
        decay = min(self.ema_decay, (1 + self.generator_steps) / (10 + self.generator_steps))
        for average, current in zip(self.generator_ema.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(current, 1 - decay)
        for kept, moving in zip(self.generator_ema.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(moving)

    def _limits(self, key: str) -> Limits:
        return cast(Limits, self.limits[key])

    def _evaluate(self, stage: str, real: Tensor, batch_idx: int) -> None:
        if batch_idx == 0:
            self.check_batch(real)
        fake = self.sample(self.noise(len(real)))
        for name, images in (("d_real", real), ("d_fake", fake)):
            logits = one_logit_each(self.discriminator(images), images)
            self.log(f"{stage}/{name}", logits.mean(), on_epoch=True, sync_dist=True, batch_size=len(real))


_COUNTERS = ("batches_seen", "images_seen", "generator_steps")
