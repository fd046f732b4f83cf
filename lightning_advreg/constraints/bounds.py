"""Bounds that stay, follow a schedule, or adapt to the weights."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lightning_advreg.recorded import Recorded
from lightning_advreg.schedules import Schedule, check_schedule
from lightning_advreg.values import Number, to_float


class FullPrecision(nn.Module):
    """A module whose floating-point buffers keep their dtype when the module that holds it becomes half precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # small steps of a bound, or of a power iteration, would be lost to rounding
        kept = {name: b for name, b in self._buffers.items() if b is not None and b.is_floating_point()}
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            self._buffers[name] = buffer.to(getattr(self, name).device)
        return self


class AdaptiveBound(Recorded, FullPrecision):
    """A bound that tightens or loosens until a wanted share of what it limits sits on it: an adaptive hard limit.

    After every projection, with ``a`` the share at the bound and ``s`` the share wanted::

        bound <- bound * exp(rate * clip((a - s) / s, -1, 1))

    so that a bound which nothing reaches shrinks by the factor ``exp(-rate)`` a step, and one that everything reaches
    grows by as much. It is an integral controller in the logarithm of the bound: as long as the share is not the wanted
    one it moves on, and around it the bound oscillates within about ``rate``.

    The bound is a buffer, which checkpoints hold, in float32 whatever the precision of the weights. It depends on the
    weights alone, so that all processes have the same. Each constraint needs an object of its own.

    Args:
        start: The first bound, positive.
        share: The share of weights (``WeightClip``), units (``MaxNorm``) or matrices (``SpectralProjection``) that is
            to sit on the bound, in (0, 1).
        rate: How fast the logarithm of the bound moves at most, a step; in (0, 1].
        minimum: The smallest bound, positive.
        maximum: The largest bound, at least ``minimum``; None for no limit.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> bound = AdaptiveBound(2.0, share=0.25, rate=0.1)
        >>> bound.follow_(torch.tensor(0.0))  # nothing reaches it
        >>> round(bound.value.item(), 3)
        1.81
    """

    value: Tensor

    def __init__(
        self,
        start: Number,
        *,
        share: Number = 0.1,
        rate: Number = 0.01,
        minimum: Number = 1e-6,
        maximum: Number | None = None,
    ) -> None:
        super().__init__()
        self.share = positive(share, "share", below=1)
        self.rate = positive(rate, "rate", maximum=1)
        self.minimum = positive(minimum, "minimum")
        self.maximum = None if maximum is None else to_float(maximum, "maximum", minimum=self.minimum)
        first = to_float(start, "start", minimum=self.minimum, maximum=self.maximum)
        self.register_buffer("value", torch.tensor(first, dtype=torch.float32))

    @torch.no_grad()
    def follow_(self, at_bound: Tensor) -> None:
        """Move the bound.

        Args:
            at_bound: The share that sits on it now, a scalar in [0, 1].
        """
        excess = ((at_bound.float() - self.share) / self.share).clamp(-1, 1)
        self.value.mul_((self.rate * excess).exp()).clamp_(self.minimum, self.maximum)


Bound: TypeAlias = AdaptiveBound | Schedule | float | str
"""A positive number, a schedule of such numbers over the epochs, or a bound that adapts."""


def as_bound(bound: Bound, name: str = "bound") -> Bound:
    """Check a bound.

    Args:
        bound: The argument.
        name: Its name, for the error message.

    Returns:
        The bound, a number as a float.

    Raises:
        ValueError: If it cannot be read, is not positive, or is a schedule known to reach 0.

    Example:
        >>> as_bound("1/4")
        0.25
    """
    if isinstance(bound, AdaptiveBound):
        return bound
    if isinstance(bound, Schedule):
        check_schedule(bound, name)
        if bound.bounds is not None and bound.bounds[0] <= 0:
            raise ValueError(f"{name} must stay positive, got {bound.bounds[0]:g} from {bound!r}.")
        return bound
    return positive(bound, name)


def bound_at(bound: Bound, epoch: float, like: Tensor) -> Tensor:
    """Give the bound of a moment.

    Args:
        bound: The bound.
        epoch: The number of epochs before this moment, with its fraction.
        like: A tensor on the device of the weights, of the dtype to compute in.

    Returns:
        A scalar like it.
    """
    if isinstance(bound, AdaptiveBound):
        # outside of a LightningModule nobody else moves it
        bound.value = bound.value.to(like.device)
        return bound.value.to(like.dtype, copy=True)
    value = bound.value(epoch) if isinstance(bound, Schedule) else to_float(bound, "bound")
    # filled there: a tensor made of a number here would be copied, and waited for
    return torch.full((), value, dtype=like.dtype, device=like.device)


def follow_(bound: Bound, at_bound: Tensor, value: Tensor) -> Tensor | None:
    """Let an adaptive bound follow the share at it.

    Args:
        bound: The bound.
        at_bound: The share that sits on it.
        value: The bound of the moment, from :func:`bound_at`.

    Returns:
        That value, if it is one that changes during training; otherwise None.
    """
    if isinstance(bound, AdaptiveBound):
        bound.follow_(at_bound)
    return None if isinstance(bound, float | str) else value


def positive(value: Number, name: str, *, maximum: float | None = None, below: float | None = None) -> float:
    """Read a number above 0.

    Args:
        value: The argument.
        name: Its name, for the error message.
        maximum: The largest value allowed.
        below: A value that the number must be less than.

    Raises:
        ValueError: If it is not a number, or out of its range.

    Example:
        >>> positive("1/4", "gain", maximum=1)
        0.25
    """
    number = to_float(value, name, maximum=maximum, below=below)
    if number <= 0:
        raise ValueError(f"{name} must be positive, got {value!r}.")
    return number
