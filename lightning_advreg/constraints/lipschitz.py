"""An upper bound of the Lipschitz constant of a whole network, reported."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_advreg.attacks import in_mode
from lightning_advreg.constraints.base import Constraint
from lightning_advreg.constraints.lipschitz_rules import RULES, Call, Unbounded
from lightning_advreg.parameters import weights


def lipschitz_bound(network: nn.Module, x: Tensor) -> Tensor:
    """Bound the Lipschitz constant of a network in eval mode, ``|f(a) - f(b)| <= L |a - b|`` in Euclidean norms.

    The operations of one forward pass are followed: ``L`` of a chain is the product of their norms (Szegedy et al.
    2014, 4.3), of a sum the sum, as in residual networks, of parts side by side the root of the sum of squares. Every
    factor is an upper bound: the spectral norm of a matrix, that of a convolution with zeros around from its Fourier
    transform (:func:`~lightning_advreg.constraints.operators.norm_bound`), the largest factor of a BatchNorm with its
    running statistics, the steepest slope of an activation. So is the product, up to rounding; it is loose, as a rule
    by orders of magnitude for deep networks, since the worst directions of the layers do not meet. For ReLU it also
    ignores which units are off.

    What holds is the path that ``x`` takes: in a network whose operations depend on the data, others may differ.

    Args:
        network: From images to logits. It runs once, in eval mode, and stays as it is.
        x: An image ``(1, C, H, W)`` or a batch, whose shape counts and whose values do not.

    Returns:
        The bound, a scalar.

    Raises:
        ValueError: If an operation has no bound: normalisation by an image's own statistics (layer, group and instance
            normalisation), products of features such as attention, or any that this library does not know.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> _ = nn.init.eye_(net[1].weight), nn.init.constant_(net[3].weight, 0.5)  # of norms 1 and sqrt(2)
        >>> lipschitz_bound(net, torch.zeros(1, 1, 2, 2))
        tensor(1.4142)
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False), in_mode(network, "eval"):
        follower = _Follower(x)
        with follower:
            output = network(x)
    bound = follower.bound_of(output)
    if bound is None:
        raise ValueError(f"the output of {type(network).__name__} does not depend on the images, as far as is known.")
    return bound


@dataclass(frozen=True, kw_only=True)
class LipschitzReport(Constraint):
    """Report an upper bound of the network's Lipschitz constant at the end of every epoch: see :func:`lipschitz_bound`.

    It limits nothing. ``SpectralProjection(c, operator="convolution")`` is what keeps the bound of a plain network of L
    such layers at about ``c^L``. A bound takes an eigenvalue decomposition for every frequency of every convolution:
    seconds for a ResNet-18.

    Args:
        image_shape: The shape of an image ``(C, H, W)``, on which the norm of convolutions depends.

    Raises:
        ValueError: If the shape is not one of integers of at least 1, or the network has an operation without a bound.

    Example:
        >>> LipschitzReport(image_shape=(1, 2, 2)).measure(nn.Sequential(nn.Flatten(), nn.Identity()))
        {'bound': tensor(1.)}
    """

    image_shape: Sequence[int]

    def __post_init__(self) -> None:
        shape = tuple(self.image_shape) if isinstance(self.image_shape, Sequence) else ()
        if not shape or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
            raise ValueError(
                f"image_shape must be integers of at least 1, such as (3, 32, 32), got {self.image_shape!r}."
            )
        object.__setattr__(self, "image_shape", shape)

    def check(self, module: nn.Module, name: str = "network") -> None:
        """Raise a ValueError if ``module``, called ``name`` in the message, has an operation without a bound."""
        try:
            self.measure(module)
        except ValueError as error:
            raise ValueError(f"{name} has no Lipschitz bound: {error}") from error

    def measure(self, module: nn.Module) -> Mapping[str, float | Tensor]:
        """Give the ``bound`` of ``module``."""
        like = next((p for _, p in weights(module, include_biases=True, include_frozen=True)), torch.empty(0))
        return {"bound": lipschitz_bound(module, like.new_zeros((1, *self.image_shape)).detach())}


class _Follower(TorchFunctionMode):
    """Watch the operations of a forward pass, and give each tensor that depends on the images its bound."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        # with the tensor itself: the id of one that is gone may be given to another
        self._known: dict[int, tuple[Tensor, Tensor]] = {}
        self._learn(x, torch.ones((), device=x.device))

    def bound_of(self, value: object) -> Tensor | None:
        found = self._known.get(id(value))
        return None if found is None else found[1]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        call = Call(getattr(func, "__name__", str(func)), args, dict(kwargs or {}), self.bound_of)
        output = func(*args, **call.kwargs)
        # writing features into a constant gives nothing back, and would make the constant one of them
        if not call.depends or not (_holds_tensor(output) or call.name == "__setitem__"):
            return output
        rule = RULES.get(call.name)
        if rule is None or not isinstance(output, Tensor):
            raise Unbounded(f"{call.name} is an operation without a known bound.")
        self._learn(output, rule(call))
        return output

    def _learn(self, tensor: Tensor, bound: Tensor) -> None:
        self._known[id(tensor)] = (tensor, bound)


def _holds_tensor(output: object) -> bool:
    return isinstance(output, Tensor) or (isinstance(output, list | tuple) and any(map(_holds_tensor, output)))
