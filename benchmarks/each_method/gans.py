"""GANs on the digits: the setting, and the studies of losses, critic penalties and what else steadies a GAN."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch.optim import Adam

from benchmarks.each_method.study import Column, Row, Study, Values
from benchmarks.each_method.training import Clock, PacedSetting, fit, seed_all
from lightning_advreg import GAN, RegularizedClassifier
from lightning_advreg.augmentations import AdaptiveAugment, DiffAugment
from lightning_advreg.constraints import WeightClip
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.metrics import ClassifierFeatures, FrechetDistance, ModeCount
from lightning_advreg.modules import Engine, LinearOneCycle
from lightning_advreg.networks import MLPDiscriminator, MLPGenerator, MNISTConvNet
from lightning_advreg.objectives import LSGAN, WGAN, Hinge, NonSaturating, RpGAN, Saturating
from lightning_advreg.penalties import DRAGAN, R1, R2, Consistency, GradientPenalty, LeCam, ZeroCenteredGradientPenalty
from lightning_advreg.schedules import Ramp

EPOCHS, SAMPLES, JUDGE_EPOCHS, BATCHES, IMAGES = 20, 5_000, 15, 22, 1_437
_SHAPE = (1, 8, 8)


class SmallGAN(PacedSetting):
    """The MLP pair on 1,437 digits.

    Args:
        epochs: Of training.
        samples: How many samples are compared with the training images.
        pace_epochs: Epochs of the baseline that each cost is measured against.
    """

    options = ""
    title = "Generative adversarial networks"
    columns: Sequence[Column] = (
        Column("frechet", "Fréchet distance", ""),
        Column("modes", "modes of 10", ""),
        Column("mode_kl", "mode KL", "nats"),
        Column("cost", "time of training", "x"),
    )

    def __init__(self, epochs: int = EPOCHS, samples: int = SAMPLES, pace_epochs: int = 2) -> None:
        super().__init__(epochs, pace_epochs)
        self.samples = samples

    @property
    def task(self) -> str:
        """Say what is trained and measured, and by which classifier."""
        return (
            f"GAN on 8x8 digits, {self.epochs} epochs, {self.samples:,} samples; Fréchet distance to the "
            f"{IMAGES:,} training images in the features of the digits classifier {judge().name}, which is no FID; a "
            "mode is a class that has at least 1 in 200 samples"
        )

    def measure(self, row: Row, seed: int) -> Values:
        """Train, sample, compare, and keep the time."""
        clock = Clock()
        gan = self._trained(row, seed, self.epochs, clock)
        self._spent = sum(clock.seconds)
        frechet, modes = FrechetDistance(), ModeCount(at_least=max(1, self.samples // 200))
        data = DigitsDataModule(batch_size=1, val_size=0)
        real, _ = data.read(train=True)
        frechet.update(judge()(real), "real")
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(self.samples, gan.latent_dim, generator=generator)
        y = None if gan.num_classes is None else torch.arange(self.samples) % gan.num_classes
        with torch.no_grad():
            images = gan.eval().sample(z, y)
        if not bool(torch.isfinite(images).all()):
            return {"frechet": None, "modes": None, "mode_kl": None}
        seen = judge()(images)
        frechet.update(seen, "generated")
        modes.update(seen, "generated")
        found = modes.compute()
        return {
            "frechet": round(frechet.compute().item(), 3),
            "modes": float(found["modes"]),
            "mode_kl": round(found["mode_kl"].item(), 4),
        }

    def _trained(self, row: Row, seed: int, epochs: int, clock: Clock) -> GAN:
        seed_all(seed)
        arguments: dict[str, Any] = dict(row.build(seed))
        generator = {"latent_dim": 32, "image_shape": _SHAPE, "hidden": (128, 256)} | arguments.pop("g", {})
        discriminator = {"image_shape": _SHAPE, "hidden": (256, 128), "dropout": 0.3} | arguments.pop("d", {})
        adam = partial(Adam, betas=(0.5, 0.999))
        gan = GAN(
            MLPGenerator(**generator),
            MLPDiscriminator(**discriminator),
            generator_optimizer=partial(adam, lr=5e-4),
            discriminator_optimizer=partial(adam, lr=1e-3),
            num_fixed=1,
            **{"ema_decay": 0.99, "engine": Engine(), **arguments},
        )
        fit(gan, DigitsDataModule(batch_size=64, val_size=0, seed=seed, loader="resident"), epochs, clock)
        return gan


@cache
def judge() -> ClassifierFeatures:
    """Train the classifier whose features all GANs are measured in, with a seed of its own."""
    seed_all(0)
    network = MNISTConvNet(image_size=8, width=32, hidden=64)
    module = RegularizedClassifier(network, optimizer=partial(Adam, lr=3e-3), lr_scheduler=LinearOneCycle)
    data = DigitsDataModule(batch_size=64, val_size=0, seed=0, loader="resident")
    fit(module, data, JUDGE_EPOCHS, Clock())
    return ClassifierFeatures(module.network)


BASELINE = Row("NonSaturating", lambda seed: {})
_AVERAGE = (
    "The baseline has 0.99. In so few steps the decay is still bounded by (1 + t) / (10 + t), which is below 0.99, so "
    "that 0.995 gives the same."
)
_CHOSEN = "Hyper-parameters were chosen before looking, from the papers and the docstrings, and not tuned."


def studies(setting: SmallGAN | None = None) -> list[Study]:
    """Give the studies of GANs."""
    setting = SmallGAN() if setting is None else setting

    def study(name: str, *rows: Row, note: str = "") -> Study:
        return Study(name, setting, (BASELINE, *rows), " ".join(part for part in (_CHOSEN, note) if part))

    images = setting.epochs * BATCHES * 64
    return [
        study("NonSaturating", _row("real label 0.9", loss=lambda: NonSaturating(real_label=0.9))),
        study("Saturating", _row("Saturating", loss=Saturating)),
        study("Hinge", _row("Hinge", loss=Hinge)),
        study("LSGAN", _row("LSGAN", loss=LSGAN)),
        study(
            "RpGAN", _row("RpGAN", loss=RpGAN), _row("RpGAN, R1 and R2, gamma 0.1", loss=RpGAN, critic_penalties=_r1_r2)
        ),
        study(
            "WGAN",
            _row("WGAN, clip 0.05", loss=WGAN, discriminator_constraints=lambda: [WeightClip(0.05)]),
            _row("WGAN, clip 0.1", loss=WGAN, discriminator_constraints=lambda: [WeightClip(0.1)]),
            _row("WGAN, gradient penalty 10", loss=WGAN, critic_penalties=lambda: [GradientPenalty(10)]),
            _row("WGAN, gradient penalty 10, n_critic 5", loss=WGAN, critic_penalties=_gp, n_critic=5),
            note="With n_critic 5 the generator takes a fifth of the steps.",
        ),
        study("GradientPenalty", *_critic(GradientPenalty, (1, 10))),
        study("ZeroCenteredGradientPenalty", *_critic(ZeroCenteredGradientPenalty, (0.1, 1))),
        study("R1", *_critic(R1, (0.1, 1)), _row("R1 0.1, every 8 steps", critic_penalties=lambda: [R1(0.1, every=8)])),
        study("R2", *_critic(R2, (0.1, 1))),
        study("DRAGAN", *_critic(DRAGAN, (1, 10))),
        study(
            "LeCam",
            *(_row(f"LeCam {w}", critic_penalties=lambda w=w: [LeCam(w, start_step=100)]) for w in (0.1, 0.3)),
            note="It begins after 100 batches.",
        ),
        study(
            "Consistency",
            _row("CR, weight 1", critic_penalties=partial(_consistency, 1)),
            _row("CR, weight 10", critic_penalties=partial(_consistency, 10)),
            _row("bCR, weight 1", critic_penalties=partial(_consistency, 1, balanced=True)),
            note="The augmentation is a shift by a pixel.",
        ),
        study(
            "SpectralNormGAN",
            _row("NonSaturating, spectral norm", d=lambda: {"spectral_norm": True}),
            _row("Hinge, spectral norm", loss=Hinge, d=lambda: {"spectral_norm": True}),
        ),
        study(
            "DiffAugment",
            _row("translation", discriminator_augmentation=_shift),
            _row("color, translation, cutout", discriminator_augmentation=lambda: DiffAugment(fill=0)),
            note="It is for training so long that the discriminator knows the images by heart, which this is not.",
        ),
        study(
            "AdaptiveAugment",
            *(_row(f"target {t}", discriminator_augmentation=partial(_adaptive, t, images // 4)) for t in (0.3, 0.6)),
            note="A quarter of training takes the probability from 0 to 1.",
        ),
        study(
            "InstanceNoise",
            *(_row(f"std {s}", instance_noise=s, instance_noise_images=images) for s in (0.1, 0.3)),
            note="It falls to 0 over the whole of training.",
        ),
        study("GeneratorEMA", *(_row(f"decay {d}", ema_decay=d) for d in (0.0, 0.9, 0.995)), note=_AVERAGE),
        study(
            "Conditioning",
            *(_row(f"{g} and {d}", g=partial(_classes, g), d=partial(_classes, d)) for g, d in _CONDITIONING),
            note="Generator and discriminator.",
        ),
        study("FeatureMatching", *(_row(f"weight {w}", feature_matching=w) for w in (0.1, 1))),
        study("TopK", _row("1 to 0.5 over training", top_k=lambda: Ramp(epochs=setting.epochs, start=1, end=0.5))),
    ]


_CONDITIONING = (("concat", "concat"), ("concat", "projection"), ("batch_norm", "projection"), ("concat", "auxiliary"))


def _row(name: str, **makers: Any) -> Row:  # noqa: ANN401
    """Give a row whose arguments that can be called are made for each run."""
    return Row(name, lambda seed: {key: make() if callable(make) else make for key, make in makers.items()})


def _critic(penalty: Callable[[float], Any], weights: tuple[float, ...]) -> list[Row]:
    name = penalty.__name__
    return [_row(f"{name} {w}", critic_penalties=lambda w=w: [penalty(w)]) for w in weights]


def _r1_r2() -> list[Any]:
    return [R1(0.1), R2(0.1)]


def _gp() -> list[Any]:
    return [GradientPenalty(10)]


def _shift() -> DiffAugment:
    return DiffAugment(policy=("translation",), fill=0)


def _consistency(weight: float, balanced: bool = False) -> list[Any]:
    return [Consistency(weight, augmentation=_shift(), balanced=balanced)]


def _adaptive(target: float, images: int) -> AdaptiveAugment:
    return AdaptiveAugment(DiffAugment(fill=0), target=target, images_to_full=max(1, images), interval=1)


def _classes(conditioning: str) -> dict[str, Any]:
    return {"num_classes": 10, "conditioning": conditioning}
