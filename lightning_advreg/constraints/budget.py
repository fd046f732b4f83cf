"""Hard limits on the size of a network, checked before training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from lightning_advreg.constraints.base import Constraint


class Usage(NamedTuple):
    """What a network uses of a budget.

    Attributes:
        parameters: The number of trainable values.
        layers: The number of modules that hold a weight with two dimensions or more: linear, convolution, embedding.
    """

    parameters: int
    layers: int


@dataclass(frozen=True, kw_only=True)
class Budget(Constraint):
    """Limit the number of parameters and of layers of a network.

    Args:
        parameters: The most trainable values allowed; None for no limit.
        layers: The most layers with weights allowed (normalisation layers do not count); None for no limit.

    Raises:
        ValueError: If neither limit is given, or one is less than 1.

    Example:
        >>> budget = Budget(parameters=10)
        >>> budget.usage(nn.Linear(2, 3))
        Usage(parameters=9, layers=1)
        >>> budget.check(nn.Linear(3, 3))
        Traceback (most recent call last):
        ...
        ValueError: network exceeds its budget: 12 parameters used, 10 allowed; ...
    """

    parameters: int | None = None
    layers: int | None = None

    def __post_init__(self) -> None:
        if self.parameters is None and self.layers is None:
            raise ValueError("a Budget needs a limit: give parameters, layers or both.")
        for name in ("parameters", "layers"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}.")

    def usage(self, module: nn.Module) -> Usage:
        """Count what ``module`` uses."""
        layers = sum(
            any(p.dim() > 1 for p in child.parameters(recurse=False))
            for child in module.modules()
            if not isinstance(child, nn.LayerNorm)
        )
        return Usage(sum(p.numel() for p in module.parameters() if p.requires_grad), layers)

    def report(self, module: nn.Module) -> str:
        """Say what ``module`` uses of each limit, as in ``parameters 9 / 10``."""
        usage = self.usage(module)
        limits = {"parameters": self.parameters, "layers": self.layers}
        used = usage._asdict()
        return ", ".join(f"{name} {used[name]:,} / {limit:,}" for name, limit in limits.items() if limit is not None)

    def measure(self, module: nn.Module) -> Mapping[str, float | Tensor]:
        """Give what ``module`` uses of each limit, as a share of what is allowed."""
        usage = self.usage(module)._asdict()
        limits = {"parameters": self.parameters, "layers": self.layers}
        return {name: usage[name] / limit for name, limit in limits.items() if limit is not None}

    def check(self, module: nn.Module, name: str = "network") -> None:
        """Raise a ValueError if ``module``, called ``name`` in the message, exceeds a limit."""
        usage = self.usage(module)
        over = [
            f"{used:,} {kind} used, {limit:,} allowed"
            for kind, used, limit in zip(usage._fields, usage, (self.parameters, self.layers), strict=True)
            if limit is not None and used > limit
        ]
        if over:
            raise ValueError(
                f"{name} exceeds its budget: {'; '.join(over)}; use a smaller network or raise the limit of Budget."
            )
