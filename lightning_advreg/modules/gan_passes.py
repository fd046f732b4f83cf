"""How a GAN runs its networks in training, as its engine says."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import torch
from torch import Tensor, nn
from torch.optim import Adam

from lightning_advreg.attacks import borrowed
from lightning_advreg.modules.compilation import Programs
from lightning_advreg.modules.engine import NO_ENGINE, Engine, channels_last, keeps_channels_last_, lay_out_
from lightning_advreg.modules.gan_average import generate
from lightning_advreg.modules.gan_verdict import Split, Verdict, judge

_FUSED = ("cpu", "cuda")


def adam(parameters: Iterable[nn.Parameter], *, fused: bool = False) -> Adam:
    """Give Adam with the settings of Radford et al. (2016): a learning rate of 2e-4, and beta1 = 0.5.

    Args:
        parameters: The parameters.
        fused: Whether to step all parameters in one kernel, on devices that have it.

    Example:
        >>> adam([nn.Parameter(torch.zeros(2))]).defaults["betas"]
        (0.5, 0.999)
    """
    of = list(parameters)
    fused = fused and all(parameter.device.type in _FUSED for parameter in of)
    return Adam(of, lr=2e-4, betas=(0.5, 0.999), fused=fused or None)


class Passes:
    """The passes of both networks in training: compiled, laid out and joined as the engine says.

    Nothing of it is in checkpoints: what it has found out about the networks follows from them, and a run that goes on
    finds it out again.

    Args:
        engine: The engine, or None for plain passes.

    Attributes:
        tried: Whether the networks of this run have been tried.
    """

    tried: bool

    def __init__(self, engine: Engine | None) -> None:
        self._joins = engine is not None
        self._engine = NO_ENGINE if engine is None else engine
        self._programs = {key: Programs(cuda_graphs=self._engine.cuda_graphs) for key in ("d", "g")}
        self.drop()

    def drop(self) -> None:
        """Forget what is known of the networks, and the programs."""
        for programs in self._programs.values():
            programs.drop()
        self._split: Split | None = None
        self._joined = self._channels_last = self.tried = False

    def lay_out_(self, *networks: nn.Module) -> None:
        """Lay networks out in memory as the engine says."""
        if self._engine.channels_last:
            for network in networks:
                lay_out_(network, torch.channels_last)

    def try_layout(
        self, generator: nn.Module, discriminator: nn.Module, noise: Sequence[Tensor], images: Sequence[Tensor]
    ) -> None:
        """Find out, at the first batch of an epoch or of a run, whether the networks take another layout of images.

        Args:
            generator: The generator.
            discriminator: The discriminator.
            noise: What the generator takes: noise ``(N, latent_dim)``, and labels ``(N,)`` where it does.
            images: What the discriminator takes: images ``(N, C, H, W)``, and labels where it does.
        """
        if self._engine.channels_last:
            # networks that do not take these images in any layout are refused by the check of the batch
            with borrowed(generator), borrowed(discriminator), torch.no_grad(), suppress(RuntimeError):
                self._channels_last = False
                keeps_channels_last_(generator, *noise)
                self._channels_last = keeps_channels_last_(discriminator, *images)

    def try_joining(self, discriminator: nn.Module, images: Sequence[Tensor], *, split: bool) -> None:
        """Find out, at the first batch of an epoch or of a run, whether one pass can judge all images.

        Args:
            discriminator: The discriminator.
            images: What it takes: images ``(N, C, H, W)``, and labels where it does.
            split: Whether it is asked for its features.
        """
        if self._joins:
            y = images[1] if len(images) > 1 else None
            self._joined = judges_alone(discriminator, images[0], y, split=split)

    def laid_out(self, images: Tensor) -> Tensor:
        """Give images as the discriminator wants them in memory."""
        return channels_last(images) if self._channels_last else images

    def generate(self, generator: nn.Module, z: Tensor, y: Tensor | None, *, eager: bool = False) -> Tensor:
        """Give images, of which the generator is to learn.

        Args:
            generator: The generator.
            z: Noise ``(N, latent_dim)``.
            y: Labels ``(N,)``, or None.
            eager: Not to compile the pass.
        """
        with self._compiled("g", generator, z, eager=eager):
            return generate(generator, z, y)

    def judge(
        self, discriminator: nn.Module, images: Tensor, y: Tensor | None, *, split: bool, eager: bool = False
    ) -> Verdict:
        """Show images to the discriminator, as :func:`~lightning_advreg.modules.gan_verdict.judge` does.

        Args:
            discriminator: The discriminator.
            images: Images ``(N, C, H, W)``.
            y: Labels ``(N,)``, or None.
            split: Whether to ask for features, and for classes where it has a classifier.
            eager: Not to compile the pass.
        """
        network: nn.Module = discriminator
        if split:
            if self._split is None or self._split.discriminator is not discriminator:
                self._split = Split(discriminator)
            network = self._split
        with self._compiled("d", network, images, eager=eager):
            return judge(network, images, y)

    def judge_both(
        self, discriminator: nn.Module, real: Tensor, fake: Tensor, y: Tensor | None, *, split: bool, eager: bool
    ) -> tuple[Verdict, Verdict]:
        """Show real and generated images, in one pass where that gives the same.

        Args:
            discriminator: The discriminator.
            real: Real images ``(N, C, H, W)``; one that requires a gradient is to be differentiated twice.
            fake: Generated images of the same shape, likewise.
            y: The labels ``(N,)`` of both, or None.
            split: Whether to ask for features, and for classes where it has a classifier.
            eager: To run each in a pass of its own that is not compiled.
        """
        twice = real.requires_grad or fake.requires_grad
        if not self._joined or eager or twice:
            on_real, on_fake = (
                self.judge(discriminator, x, y, split=split, eager=eager or x.requires_grad) for x in (real, fake)
            )
            return on_real, on_fake
        labels = None if y is None else torch.cat([y, y])
        both = self.judge(discriminator, torch.cat([real, fake]), labels, split=split)
        return both.cut(real, fake)

    def _compiled(self, key: str, network: nn.Module, x: Tensor, *, eager: bool) -> AbstractContextManager[None]:
        return self._programs[key].at_work(network, x) if self._engine.compile and not eager else nullcontext()


def judges_alone(discriminator: nn.Module, images: Tensor, y: Tensor | None, *, split: bool = False) -> bool:
    """Say whether a discriminator in training judges each image by itself, and each pass as the one before.

    So it is unless layers mix images (BatchNorm, ``MinibatchStandardDeviation``), draw random numbers (dropout), or
    change buffers (the vectors of spectral normalisation). Found out by a pass over four images, after which the
    discriminator and the random generators are as they were.

    Args:
        discriminator: The discriminator, in the mode in which it trains.
        images: Images ``(N, C, H, W)``.
        y: Their labels ``(N,)``; None for a discriminator that takes none.
        split: Whether it is asked for its features.

    Example:
        >>> x = torch.rand(4, 1, 2, 2)
        >>> judges_alone(nn.Sequential(nn.Flatten(), nn.Linear(4, 1)), x, None)
        True
        >>> judges_alone(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 1)), x, None)
        False
    """
    x = images[:4].detach().clone()
    if len(x) < 2:
        return False
    buffers = [(buffer, buffer.clone()) for buffer in discriminator.buffers()]
    with torch.random.fork_rng([x.device] if x.is_cuda else []), torch.enable_grad():
        before = _random_states(x)
        network = Split(discriminator) if split else discriminator
        logits = judge(network, x.requires_grad_(), None if y is None else y[:4]).logits
        drew = not all(map(torch.equal, before, _random_states(x)))
        gradient = torch.autograd.grad(logits[0], x)[0] if logits.requires_grad else torch.zeros_like(x)
    changed = False
    with torch.no_grad():
        for buffer, kept in buffers:
            changed = changed or not torch.equal(buffer, kept)
            buffer.copy_(kept)
    return not (drew or changed or bool(gradient[1:].any()))


def _random_states(x: Tensor) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(x.device)] if x.is_cuda else [])]
