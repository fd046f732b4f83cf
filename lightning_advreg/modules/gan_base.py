"""What a GAN is around its two steps: samples, optimizers, schedules, limits, counters in checkpoints."""

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_advreg.attacks import borrowed
from lightning_advreg.checks import check_batch
from lightning_advreg.metrics import MeanOverImages
from lightning_advreg.modules.base import CheckpointedModule
from lightning_advreg.modules.classifier import Batch
from lightning_advreg.modules.gan_average import follow_, generate, take_standing_statistics_
from lightning_advreg.modules.gan_checks import (
    at_least,
    classes_of,
    latent_dim_of,
    refuse_trainer_settings,
    shared_classes,
)
from lightning_advreg.modules.gan_verdict import judge
from lightning_advreg.modules.limits import Limits
from lightning_advreg.modules.penalties import warn_of_double_decay
from lightning_advreg.modules.schedules import fit_schedules
from lightning_advreg.penalties.critic import AnyCriticPenalty
from lightning_advreg.penalties.critic_in_training import check_critic
from lightning_advreg.penalties.in_training import AnyPenalty, begin

_COUNTERS = ("batches_seen", "images_seen", "generator_steps", "discriminator_steps")


class GANBase(CheckpointedModule):
    """A generator, its average and a discriminator; a subclass gives the ``training_step``.

    Args:
        generator: The generator.
        discriminator: The discriminator.
        latent_dim: The length of a noise vector; None takes ``generator.latent_dim``.
        num_fixed: The number of fixed noise vectors.
        ema_decay: Decay of the generator's moving average, in [0, 1).
        standing_statistics: Batches from which BatchNorm statistics of the average are taken before sampling.

    Raises:
        ValueError: If the networks do not go together, or a number is out of its range.
    """

    fixed_latent: Tensor
    fixed_labels: Tensor | None
    penalties: dict[str, dict[str, AnyPenalty]]
    critic_penalties: dict[str, AnyCriticPenalty]
    limits: nn.ModuleDict
    optimizers_of: dict[str, Any]
    schedulers_of: dict[str, Any]
    gradient_clip_val: float | None
    gradient_clip_algorithm: str

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        latent_dim: int | None,
        num_fixed: int,
        ema_decay: float,
        standing_statistics: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.latent_dim = latent_dim_of(generator, latent_dim)
        self.num_classes = shared_classes(generator, discriminator)
        self.ema_decay = ema_decay
        self.standing_statistics = at_least(standing_statistics, 0, "standing_statistics")
        self.generator_ema = copy.deepcopy(generator).requires_grad_(False)
        noise = torch.randn(at_least(num_fixed, 1, "num_fixed"), self.latent_dim)
        self.register_buffer("fixed_latent", noise)
        self.register_buffer(
            "fixed_labels", None if self.num_classes is None else torch.arange(num_fixed) % self.num_classes
        )
        self.batches_seen = self.images_seen = self.generator_steps = self.discriminator_steps = 0
        # the batches of the steps that are being accumulated
        self._window: list[tuple[Tensor, Tensor | None]] = []
        self.mean_logits = nn.ModuleDict(
            {f"{stage}_{name}": MeanOverImages() for stage in ("val", "test") for name in ("d_real", "d_fake")}
        )
        # images that both steps of a batch are to see
        self._made: Tensor | None = None
        self._statistics_stand = False
        self.register_load_state_dict_post_hook(_forget_statistics)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Give images ``(N, C, H, W)`` for noise ``(N, latent_dim)``, from the averaged generator; see ``sample``."""
        return self.sample(z, y)

    @torch.no_grad()
    def sample(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Give images ``(N, C, H, W)`` in [0, 1], from the averaged generator.

        Args:
            z: Noise ``(N, latent_dim)``.
            y: Labels ``(N,)``, int64, of a conditional GAN; None draws them, each class as likely as another.

        Raises:
            ValueError: If there are labels, and the generator takes none.
        """
        if y is not None and self.num_classes is None:
            raise ValueError("this generator takes no labels; call sample(z), or build it with num_classes.")
        if self.standing_statistics and not self._statistics_stand:
            take_standing_statistics_(self.generator_ema, self.latent_dim, self.num_classes, self.standing_statistics)
            self._statistics_stand = True
        return generate(self.generator_ema.eval(), z, self.labels(len(z)) if y is None else y)

    def noise(self, count: int) -> Tensor:
        """Draw standard normal noise of shape ``(count, latent_dim)``."""
        return torch.randn(count, self.latent_dim, device=self.device)

    def labels(self, count: int) -> Tensor | None:
        """Draw labels ``(count,)``, each class as likely as another; None for a GAN without classes."""
        return None if self.num_classes is None else torch.randint(self.num_classes, (count,), device=self.device)

    def for_discriminator(self, y: Tensor | None) -> Tensor | None:
        """Give labels back, or None where the discriminator takes none."""
        return None if classes_of(self.discriminator) is None else y

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the discriminator's mean logit of held-out real images and of samples."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the discriminator's mean logit of held-out real images and of samples."""
        self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Give as many samples as the batch has images, of a conditional GAN with the batch's labels."""
        return self.sample(self.noise(len(batch[0])), self.read(batch)[1])

    def read(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Give the images of a batch, and its labels for a conditional GAN.

        Raises:
            ValueError: If a conditional GAN finds no labels.
        """
        if self.num_classes is None:
            return batch[0], None
        if isinstance(batch, Tensor) or len(batch) < 2:
            raise ValueError("a conditional GAN needs batches of images and labels (x, y), and this one has no labels.")
        return batch[0], batch[1]

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Refuse what the Trainer cannot do for two optimizers; the first hook that knows the Trainer."""
        if self.trainer.state.fn == "fit":
            refuse_trainer_settings(self.trainer)
        return super().configure_callbacks()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build two optimizers, the discriminator's first, and their schedules; say so if decay is counted twice."""
        networks = {"d": self.discriminator, "g": self.generator}
        optimizers = {key: build(networks[key].parameters()) for key, build in self.optimizers_of.items()}
        for key, network in networks.items():
            warn_of_double_decay(self.penalties[key], network, optimizers[key])
        schedulers = [build(optimizers[key]) for key, build in self.schedulers_of.items() if build is not None]
        return list(optimizers.values()), schedulers

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients of the network that steps, after a gradient scaler has undone its scale."""
        if self.gradient_clip_val is not None:
            self.clip_gradients(optimizer, self.gradient_clip_val, self.gradient_clip_algorithm)

    def on_fit_start(self) -> None:
        """Make the first weights meet the hard limits, and start the average at them."""
        super().on_fit_start()
        self._window, self._made = [], None
        # callbacks may have changed layers since the module was built
        check_critic(self.critic_penalties, self.discriminator)
        # the weights of a checkpoint meet them already, and rounding would move them
        if self.trainer.ckpt_path is None:
            self._limits("d").project_(self.discriminator, self.current_epoch)
            self._limits("g").project_(self.generator, self.current_epoch)
        self._limits("d").forget()
        self._limits("g").forget()
        self._limits("g").announce(self.generator, "generator")
        self._limits("d").announce(self.discriminator, "discriminator")
        begin(self.penalties["d"], self.discriminator)
        begin(self.penalties["g"], self.generator)
        if self.generator_steps == 0:
            self.generator_ema.load_state_dict(self.generator.state_dict())
            self._statistics_stand = False

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
        counters = checkpoint.get("gan_counters", {})
        # older checkpoints are of runs with a discriminator step for each batch
        counters = {"discriminator_steps": counters.get("batches_seen", 0), **counters}
        for name, value in counters.items():
            setattr(self, name, value)

    def check_batch(self, real: Tensor, y: Tensor | None = None) -> None:
        """Check the first batch of an epoch, and that both networks fit it.

        Raises:
            TypeError: If images are not floating point, or labels not integers.
            ValueError: If pixels lie outside [0, 1], for real or generated images, if these differ in shape, if labels
                are not among the classes, or if the discriminator does not give one logit per image.
        """
        check_batch(real, y, num_classes=self.num_classes)
        with borrowed(self.generator), borrowed(self.discriminator), torch.no_grad():
            labels = self.labels(2)
            fake = generate(self.generator, self.noise(2), labels)
            if fake.shape[1:] != real.shape[1:]:
                raise ValueError(
                    f"the generator makes images of shape {tuple(fake.shape[1:])}, the data has "
                    f"{tuple(real.shape[1:])}; set the generator's image_shape."
                )
            check_batch(fake)
            classes = judge(self.discriminator, fake, self.for_discriminator(labels), split=self._split).classes
            if classes is not None and classes.shape[1:] != (self.num_classes,):
                raise ValueError(
                    f"the auxiliary classifier gives outputs of shape {tuple(classes.shape)}, and the generator has "
                    f"num_classes={self.num_classes}; build the discriminator for as many classes."
                )

    @property
    def mid_step(self) -> bool:
        """Whether gradients of some batches wait for more batches, so that a checkpoint would lack them."""
        return bool(self._window)

    @property
    def _split(self) -> bool:
        """Whether the discriminator is asked for its features."""
        return hasattr(self.discriminator, "classify")

    def _average_generator(self) -> None:
        decay = min(self.ema_decay, (1 + self.generator_steps) / (10 + self.generator_steps))
        follow_(self.generator_ema, self.generator, decay)
        self._statistics_stand = False

    def _limits(self, key: str) -> Limits:
        return cast(Limits, self.limits[key])

    def _evaluate(self, stage: str, batch: Batch, batch_idx: int) -> None:
        real, y = self.read(batch)
        if batch_idx == 0:
            self.check_batch(real, y)
        fake = self.sample(self.noise(len(real)), y)
        counted = self.counted(len(real), batch_idx)
        for name, images in (("d_real", real), ("d_fake", fake)):
            logits = judge(self.discriminator, images, self.for_discriminator(y)).logits
            mean = cast(MeanOverImages, self.mean_logits[f"{stage}_{name}"])
            mean.update(logits[:counted])
            self.log(f"{stage}/{name}", mean, on_step=False, on_epoch=True)


def _forget_statistics(module: nn.Module, incompatible_keys: object) -> None:
    cast(GANBase, module)._statistics_stand = False
