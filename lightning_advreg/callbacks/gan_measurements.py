"""What the monitor of a GAN measures, on its device, without waiting for it."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from lightning_advreg.attacks import borrowed
from lightning_advreg.callbacks.isolation import isolated_rng
from lightning_advreg.modules.gan_checks import classes_of


class GradientNorms:
    """Norms of a network's gradient, one of every few steps.

    Args:
        every: Take one of so many steps.

    Example:
        >>> layer, norms = nn.Linear(2, 1, bias=False), GradientNorms(every=2)
        >>> for length in (3.0, 100.0, 5.0):
        ...     layer.weight.grad = torch.tensor([[length, 0.0]])
        ...     norms.add(layer)
        >>> norms.steps, norms.median().item()
        (3, 3.0)
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.steps = 0
        self._norms: list[Tensor] = []

    def add(self, network: nn.Module) -> None:
        """Count a step, and note the norm if it is due."""
        if self.steps % self.every == 0:
            grads = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
            if grads:
                self._norms.append(torch.stack(torch._foreach_norm(grads)).float().norm())
        self.steps += 1

    def median(self) -> Tensor | None:
        """Give the median of the norms since the last call, the lower one of two; None if there is none."""
        norms, self._norms = self._norms, []
        # those of a checkpoint lie on the CPU
        return torch.stack([norm.to(norms[-1].device) for norm in norms]).median() if norms else None

    def state_dict(self) -> dict[str, Any]:
        """Give plain values."""
        return {"steps": self.steps, "norms": [norm.item() for norm in self._norms]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.steps, self._norms = state["steps"], [torch.tensor(norm) for norm in state["norms"]]


def look_at(pl_module: pl.LightningModule, real: Tensor, y: Tensor | None, *, offset: int) -> Tensor:
    """Measure a GAN on a batch of real images and as many samples of its generator, which is not averaged.

    The generator normalises by the batch, as in training, and moves no statistics; the discriminator sees the instance
    noise of the moment. Training goes on as if nothing had been.

    Args:
        pl_module: The module, with ``generator``, ``discriminator`` and ``noise(count)``.
        real: Real images ``(N, C, H, W)``.
        y: Their labels, which samples get too, where the networks take labels; else None.
        offset: Tells the random streams of one run apart.

    Returns:
        Three numbers on the device: the diversity of samples, the share of pairs that are told apart, and the sum of
        the norms of all weights, which is finite if they are.
    """
    module: Any = pl_module
    generator, discriminator = module.generator, module.discriminator
    labels = {
        name: (y,) if classes_of(network) is not None and y is not None else () for name, network in _networks(module)
    }
    with (
        isolated_rng(pl_module.device, offset),
        torch.autocast(pl_module.device.type, enabled=False),
        borrowed(generator, "batch_stats"),
        borrowed(discriminator),
        torch.no_grad(),
    ):
        real = real.float()
        fake = generator(module.noise(len(real)).float(), *labels["generator"]).float()
        level = float(getattr(module, "noise_level", 0.0))
        real_logits, fake_logits = (
            discriminator(images + level * torch.randn_like(images), *labels["discriminator"]).flatten()
            for images in (real, fake)
        )
        weights = [parameter.detach() for _, network in _networks(module) for parameter in network.parameters()]
        size = torch.stack(torch._foreach_norm(weights)).sum()
        diversity = relative_spread(fake, real, y if labels["generator"] else None)
        return torch.stack([diversity, told_apart(real_logits, fake_logits), size.float()])


def relative_spread(fake: Tensor, real: Tensor, labels: Tensor | None = None) -> Tensor:
    """Give the mean L2 distance of a sample to the sample that is nearest to it, in that of real images.

    It is small where a generator makes a few images over and over, which the mean over all pairs does not show.

    Args:
        fake: Samples ``(N, ...)``.
        real: Real images ``(N, ...)``.
        labels: The class of each image in both, ``(N,)``: the nearest one is of the same class then.

    Returns:
        A number; 1 where no two real images differ.

    Example:
        >>> relative_spread(torch.tensor([[0.0], [1.0], [9.0]]), torch.tensor([[0.0], [4.0], [8.0]])).round(decimals=4)
        tensor(0.8333)
    """
    others = ~torch.eye(len(real), dtype=torch.bool, device=real.device)
    if labels is not None:
        others &= labels.view(-1, 1) == labels.view(1, -1)
    alone = ~others.any(1)
    of_fake, of_real = (
        torch.cdist(x.flatten(1), x.flatten(1)).masked_fill(~others, torch.inf).amin(1).masked_fill(alone, 0).sum()
        for x in (fake, real)
    )
    return torch.where(of_real > 0, of_fake / of_real, torch.ones_like(of_real))


def told_apart(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Give the share of pairs in which the real image has the larger logit; ties count half.

    It needs no threshold, and so holds for critics too.

    Example:
        >>> told_apart(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])).item()
        0.625
    """
    lead = real_logits.view(-1, 1) - fake_logits.view(1, -1)
    return (lead > 0).float().mean() + (lead == 0).float().mean() / 2


def check_gan(pl_module: pl.LightningModule) -> None:
    """Check that a module has what the monitor looks at.

    Raises:
        TypeError: If it has not.
    """
    networks = ("generator", "discriminator")
    missing = [name for name in networks if not isinstance(getattr(pl_module, name, None), nn.Module)]
    missing += [] if callable(getattr(pl_module, "noise", None)) else ["noise"]
    if missing:
        raise TypeError(
            f"GANMonitor needs a module with networks `generator` and `discriminator` and a method `noise(count)`, and "
            f"{type(pl_module).__name__} lacks {', '.join(missing)}; use lightning_advreg.GAN, or add them."
        )


def _networks(module: Any) -> tuple[tuple[str, nn.Module], ...]:  # noqa: ANN401
    return ("generator", module.generator), ("discriminator", module.discriminator)
