"""What all networks share: they remember how they were built, and take [0, 1] pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_advreg.recorded import Recorded


class Network(Recorded, nn.Module):
    """A network that records its constructor arguments, so that a checkpoint can rebuild it.

    Attributes:
        init_args: The arguments given to the constructor, by name. Defaults are left out.

    Example:
        >>> class Linear(Network):
        ...     def __init__(self, features: int, bias: bool = True) -> None:
        ...         super().__init__()
        >>> Linear(3).init_args
        {'features': 3}
    """


class Normalize(nn.Module):
    """Normalise [0, 1] pixels per channel, as the first layer of a network.

    Keeping this inside the network keeps eps, steps and the box of every attack in pixel units.

    Args:
        mean: One value per channel, in [0, 1].
        std: One positive value per channel.

    Raises:
        ValueError: If ``mean`` and ``std`` differ in length or a ``std`` is not positive.

    Example:
        >>> Normalize((0.5,), (0.5,))(torch.ones(1, 1, 1, 1)).item()
        1.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not len(mean) == len(std) > 0 or min(std) <= 0:
            raise ValueError(f"mean and std need one value per channel, std positive; got mean={mean}, std={std}.")
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Give ``(x - mean) / std``.

        Args:
            x: Images in [0, 1], of shape ``(N, C, H, W)``.

        Returns:
            The normalised images, of the shape of ``x``.

        Raises:
            ValueError: If the images do not have one channel per mean. Broadcasting would hide this, and turn grey
                images into colour ones.
        """
        if x.dim() != 4 or x.shape[1] != self.mean.shape[1]:
            raise ValueError(
                f"images must have shape (N, {self.mean.shape[1]}, H, W), got {tuple(x.shape)}; set in_channels, mean "
                "and std of the network to the channels of the data."
            )
        return (x - self.mean) / self.std
