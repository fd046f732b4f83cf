"""What every constraint is: a limit that holds exactly, rather than a price for exceeding it."""

from torch import nn


class Constraint:
    """Hard regularisation: a projection after every optimizer step, a budget checked before the first, or both.

    Subclasses override one of the two methods.
    """

    def project_(self, module: nn.Module) -> None:
        """Move the parameters of ``module``, in place, to the nearest ones that meet the limit."""

    def check(self, module: nn.Module, name: str = "network") -> None:
        """Raise a ValueError, naming the network by ``name``, if no training could make ``module`` meet the limit."""
