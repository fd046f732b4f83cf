"""What the convergence monitor measures: fixed images, attacked now and then, at a bounded cost."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_advreg.attacks import FGSM, PGD, Alone, Attack, Norm, logit_variation
from lightning_advreg.attacks.losses import margin
from lightning_advreg.attacks.objective import InnerObjective
from lightning_advreg.callbacks.collected import CollectedImages
from lightning_advreg.callbacks.convergence_look import Look
from lightning_advreg.callbacks.convergence_moment import Now
from lightning_advreg.checks import check_batch
from lightning_advreg.data.share import Share
from lightning_advreg.evaluation import flags
from lightning_advreg.evaluation.flags import Flag

# of probabilities in half precision
_ROUNDING = 1e-2


class FixedImages:
    """The first images of a loader, which every later measurement sees again; on the CPU, and all on every process.

    Attributes:
        x: The images, of shape ``(N, ...)``; None until they are complete.
        y: Their labels, of shape ``(N,)``.
        come_again: Whether the loader has begun with the same images again, so that checkpoints need not hold them.
    """

    def __init__(self) -> None:
        self.x: Tensor | None = None
        self.y: Tensor | None = None
        self.come_again = False
        self._share = Share(None)
        self._collected: CollectedImages | None = None

    @property
    def collecting(self) -> bool:
        """Whether images are still missing."""
        return self._collected is not None and (self._share.limit is None or self._share.place < self._share.limit)

    def wants(self, batch: int) -> bool:
        """Tell whether the batch of this number is to be added."""
        return self.collecting or (batch == 0 and self.x is not None)

    def start(self, share: Share) -> None:
        """Collect this process's share from now on, unless the images are there already."""
        self._share = share
        if self.x is None:
            self._collected = CollectedImages(share)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Keep what is needed of the next batch, or compare the first one of a later pass with what is kept.

        Raises:
            TypeError: If images are not floating point or labels are not integers.
            ValueError: If pixels or labels are out of range.
        """
        if self._collected is not None and self.collecting:
            # at once, rather than after an epoch
            check_batch(x, y)
            self._collected.add(x, y)
        elif self.x is not None:
            mine = self.x[self._share.rank :: self._share.world_size][: len(x)]
            first = x[: len(mine)].detach().cpu()
            self.come_again = first.dtype == mine.dtype and torch.equal(first, mine)

    def complete(self, ranks: Alone) -> bool:
        """Share what was collected, and say whether there are images; every process must call this."""
        if self.x is None and self._collected is not None:
            x, y = self._collected.gather(ranks)
            if len(x) > 0:
                self.x, self.y, self._collected = x, y, None
        return self.x is not None

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """Give at most ``count`` images, and their labels."""
        assert self.x is not None
        assert self.y is not None
        return self.x[:count], self.y[:count]

    def state_dict(self) -> dict[str, Tensor]:
        """Give the images, as bytes where nothing is lost by that; none where they will come again."""
        if self.x is None or self.y is None or self.come_again:
            return {}
        packed = (self.x * 255).round().to(torch.uint8)
        exact = self.x.dtype == torch.float32 and torch.equal(packed.float() / 255, self.x)
        return {"x": packed if exact else self.x, "y": self.y}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the images."""
        if state:
            x = state["x"].cpu()
            self.x, self.y = (x.float() / 255 if x.dtype == torch.uint8 else x), state["y"].cpu()


@dataclass(frozen=True, kw_only=True)
class Clean:
    """What a network shows without an attack.

    Attributes:
        images: How many images were shown.
        loss: Their mean cross-entropy.
        right: How many the network gets right.
        num_classes: How many logits it gives.
        finite: Whether all logits are finite.
        differentiable: Whether there is an input gradient at all.
        signs: The signs of gradient masking that were found.
    """

    images: int
    loss: float
    right: int
    num_classes: int
    finite: bool
    differentiable: bool
    signs: tuple[Flag, ...]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one measurement found.

    Attributes:
        clean: What the network shows without an attack.
        look: What it shows under attack; None where there was no gradient to follow.
    """

    clean: Clean
    look: Look | None


class Sight:
    """Looks at a network with the images of all processes; put it into the state of evaluation first.

    Args:
        network: The network, from images in [0, 1] to logits.
        device: Where it is.
        ranks: The processes that share the work. All must call the same methods, and all get the same results.
        batch_size: How many images to attack at once.
    """

    def __init__(self, network: nn.Module, device: torch.device, ranks: Alone, batch_size: int) -> None:
        self._network, self._device, self._ranks, self._batch_size = network, device, ranks, batch_size

    def see(
        self,
        now: Now,
        val: tuple[Tensor, Tensor],
        train: tuple[Tensor, Tensor],
        *,
        norm: Norm,
        eps: float,
        seed: int,
    ) -> Seen:
        """Measure on validation images, and on training images unless these are the same object."""
        clean = self.clean(*val)
        if not clean.finite or not clean.differentiable:
            return Seen(clean=clean, look=None)
        pgd = PGD(norm=norm, eps=eps, step_size=eps / 4, steps=10, seed=seed, check=False)
        fgsm_right, pgd_right = self.outcomes(FGSM(norm=norm, eps=eps, check=False), *val), self.outcomes(pgd, *val)
        train_right = pgd_right if train is val else self.outcomes(pgd, *train)
        look = Look(**now._asdict(), fgsm=fgsm_right, pgd=pgd_right, train_pgd=train_right)
        return Seen(clean=clean, look=look)

    def outcomes(self, attack: Attack, x: Tensor, y: Tensor) -> tuple[bool, ...]:
        """Tell which of the images are right under an attack, in their order."""
        mine: list[bool] = []
        for images, labels in self._batches(x, y):
            x_adv = attack(self._network, images, labels)
            with torch.no_grad():
                mine += (self._network(x_adv).argmax(1) == labels).tolist()
        parts = self._ranks.gather(mine)
        return tuple(parts[i % len(parts)][i // len(parts)] for i in range(len(x)))

    def clean(self, x: Tensor, y: Tensor) -> Clean:
        """Look at the images without an attack, with their input gradients."""
        losses, right, still, stuck, alike, classes = 0.0, 0, 0, 0, 0, 0
        finite = differentiable = True
        variation = 0.0
        for images, labels in self._batches(x, y):
            leaf = images.requires_grad_()
            logits = InnerObjective(self._network, leaf.detach(), labels).logits(leaf)
            loss = F.cross_entropy(logits, labels, reduction="none")
            zero = _without_gradient(loss.sum(), leaf)
            if zero is None:
                differentiable = False
            else:
                flat = _without_gradient(margin(logits, labels, logits).sum(), leaf)
                still += int(zero.sum())
                stuck += 0 if flat is None else int((zero & flat).sum())
            with torch.no_grad():
                finite = finite and bool(logits.isfinite().all())
                right += int((logits.argmax(1) == labels).sum())
                alike += int((((logits.sum(1) - 1).abs() <= _ROUNDING) & (logits >= 0).all(1)).sum())
                losses, classes = losses + float(loss.sum()), logits.shape[1]
            variation = max(variation, logit_variation(self._network, leaf.detach()))
        parts = self._ranks.gather((losses, right, still, stuck, alike, classes, finite, differentiable, variation))
        count, found = len(x), list(zip(*parts, strict=True))
        differentiable = all(found[7])
        signs = (
            flags.random_logits(max(found[8])),
            flags.softmax_outputs(sum(found[4]) / count),
            flags.zero_gradients(sum(found[2]), sum(found[3]), count) if differentiable else flags.no_gradients(),
        )
        return Clean(
            images=count,
            loss=sum(found[0]) / count,
            right=sum(found[1]),
            num_classes=max(found[5]),
            finite=all(found[6]),
            differentiable=differentiable,
            signs=tuple(flag for flag in signs if flag is not None),
        )

    def _batches(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        mine = slice(self._ranks.rank, None, self._ranks.size)
        pairs = zip(x[mine].split(self._batch_size), y[mine].split(self._batch_size), strict=True)
        # copies, since what is differentiated must not be the images that are kept
        return [(a.to(self._device, copy=True), b.to(self._device, torch.int64)) for a, b in pairs if len(a) > 0]


class LossWatch:
    """Remembers the first batch whose loss was not finite, without waiting for the device.

    Example:
        >>> watch = LossWatch()
        >>> for batch, loss in enumerate([1.0, float("nan"), float("inf")]):
        ...     watch.add(torch.tensor(loss), batch)
        >>> watch.first(), watch.first()
        (1, None)
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def add(self, loss: Tensor, batch: int) -> None:
        """Note the loss of a batch."""
        bad = ~loss.detach().isfinite().all()
        if self._first is None:
            self._first = torch.full((), -1, dtype=torch.int64, device=loss.device)
        # a filled tensor rather than a written one: a number copied to the device would make the host wait
        self._first = self._first.masked_fill(bad & (self._first < 0), batch)

    def first(self) -> int | None:
        """Give the first batch that was not finite, wait for it, and forget it."""
        first = -1 if self._first is None else int(self._first)
        self._first = None
        return None if first < 0 else first


def loss_of(outputs: object) -> Tensor | None:
    """Find the loss in what a training step gave, if there is one."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return loss if isinstance(loss, Tensor) and loss.is_floating_point() else None


def _without_gradient(value: Tensor, leaf: Tensor) -> Tensor | None:
    """Tell for which images the gradient of a value is exactly zero; None if there is no gradient at all."""
    if not value.requires_grad:
        return None
    grad = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)[0]
    return None if grad is None else (grad == 0).flatten(1).all(1)
