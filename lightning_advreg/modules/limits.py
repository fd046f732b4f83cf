"""The hard limits of one network in training: enforced, counted, and kept in checkpoints."""

from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_advreg.constraints import Budget, Constraint, Projected
from lightning_advreg.modules.base import by_name


class Limits(nn.Module):
    """The constraints of a network, with what they carry from step to step as submodules, and means over an epoch.

    Args:
        constraints: The constraints, which are enforced in this order.

    Raises:
        ValueError: If two of them share what they carry.

    Example:
        >>> from lightning_advreg.constraints import MaxNorm
        >>> limits, layer = Limits([MaxNorm(1.0)]), nn.Linear(2, 1)
        >>> _ = nn.init.constant_(layer.weight, 3.0)
        >>> limits.project_(layer, epoch=0)
        >>> sorted(limits.report(layer))
        ['maxnorm/at_bound', 'maxnorm/distance', 'maxnorm/moved']
    """

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        super().__init__()
        check_apart(constraints)
        self.by_name = by_name(constraints)
        for name, constraint in self.by_name.items():
            if constraint.state is not None:
                self.add_module(name, constraint.state)
        self.forget()

    def check(self, network: nn.Module, name: str = "network") -> None:
        """Raise a ValueError, naming the network by ``name``, if it cannot meet a limit."""
        for constraint in self.by_name.values():
            constraint.check(network, name)

    def project_(self, network: nn.Module, epoch: float) -> None:
        """Enforce the limits, and add up how far they bite.

        Args:
            network: The network.
            epoch: The number of epochs before this moment, with its fraction.
        """
        for name, constraint in self.by_name.items():
            projected = constraint.project_(network, epoch=epoch)
            if projected is not None:
                self._count(name, projected)

    def report(self, network: nn.Module) -> Mapping[str, float | Tensor]:
        """Give the means since the last report, and what the constraints measure; begin anew.

        Args:
            network: The network.

        Returns:
            Numbers by ``<constraint>/<what>``.
        """
        found: dict[str, float | Tensor] = {}
        for name, constraint in self.by_name.items():
            if name in self._sums:
                means = (self._sums[name] / self._counts[name]).unbind()
                found |= {f"{name}/{what}": m for what, m in zip(self._fields[name], means, strict=True)}
            found |= {f"{name}/{what}": value for what, value in constraint.measure(network).items()}
        self.forget()
        return found

    def announce(self, network: nn.Module, name: str = "network") -> None:
        """Say once, in the log of the process with rank 0, what a network uses of its budgets.

        Args:
            network: The network.
            name: What it is called.
        """
        for constraint in self.by_name.values():
            if isinstance(constraint, Budget):
                rank_zero_info(f"Budget of the {name}, used / allowed: {constraint.report(network)}")

    def forget(self) -> None:
        """Begin to add up anew."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._fields: dict[str, list[str]] = {}

    def _count(self, name: str, projected: Projected) -> None:
        values = {what: value for what, value in projected._asdict().items() if value is not None}
        # one sum of all: an operation for each number would cost more than many a projection
        stacked = torch.stack([value.float() for value in values.values()])
        if name in self._sums:
            self._sums[name] += stacked
        else:
            self._sums[name] = stacked
        self._fields[name] = list(values)
        self._counts[name] = self._counts.get(name, 0) + 1


def check_apart(constraints: Sequence[Constraint]) -> None:
    """Check that no two constraints share what they carry from step to step.

    Raises:
        ValueError: If two do.

    Example:
        >>> from lightning_advreg.constraints import AdaptiveBound, MaxNorm, WeightClip
        >>> bound = AdaptiveBound(1.0)
        >>> check_apart([MaxNorm(bound), WeightClip(bound)])
        Traceback (most recent call last):
        ...
        ValueError: MaxNorm and WeightClip share one AdaptiveBound, which holds the state of one of them; give each ...
    """
    owners: dict[int, str] = {}
    for constraint in constraints:
        name, state = type(constraint).__name__, constraint.state
        if state is not None and id(state) in owners:
            raise ValueError(
                f"{owners[id(state)]} and {name} share one {type(state).__name__}, which holds the state of one of "
                "them; give each an object of its own."
            )
        owners[id(state)] = name
