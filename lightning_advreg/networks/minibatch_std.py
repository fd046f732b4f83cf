"""How much the images of a batch differ, as one more feature of each."""

import torch
from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_sizes

_EPS = 1e-8


class MinibatchStandardDeviation(nn.Module):
    """Append a feature that says how much the images of a group differ, so that a discriminator sees mode collapse.

    The standard deviation of each feature (at each position) over the images of a group, averaged over features and
    positions to one number, fills one more channel of all images of the group. Source: Karras et al. (2018),
    section 3. The standard deviation is that of the group, divided by its size, with 1e-8 added to the variance.

    Neighbours in the batch form a group. Where ``group_size`` does not divide the batch, there are as many groups as
    are full, and some have more images; a batch smaller than ``group_size`` is one group. The output for an image thus
    depends on the images beside it, in evaluation as well: show real images and generated ones in batches of their own.

    Args:
        group_size: The number of images in a group, 2 or more.

    Raises:
        ValueError: If ``group_size`` is below 2.

    Example:
        >>> layer = MinibatchStandardDeviation(group_size=2)
        >>> layer(torch.tensor([[0.0], [2.0], [5.0], [5.0]])).round(decimals=2).tolist()
        [[0.0, 1.0], [2.0, 1.0], [5.0, 0.0], [5.0, 0.0]]
    """

    def __init__(self, group_size: int = 4) -> None:
        super().__init__()
        check_sizes(group_size=group_size)
        if group_size < 2:
            raise ValueError(f"group_size must be 2 or more, got {group_size}; one image alone does not deviate.")
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """Give features ``(N, C + 1, ...)`` for features ``(N, C, ...)``, maps or vectors."""
        groups = max(1, len(x) // self.group_size)
        size, larger = divmod(len(x), groups)
        # the larger groups come first; both kinds are of one size each, so that there is no loop over groups
        cut = larger * (size + 1)
        parts = [(x[:cut], larger), (x[cut:], groups - larger)]
        added = torch.cat([_deviations(part, count) for part, count in parts if count])
        added = added.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        return torch.cat([x, added.expand(-1, 1, *x.shape[2:])], dim=1)

    def extra_repr(self) -> str:
        """Show the size of a group."""
        return f"group_size={self.group_size}"


def _deviations(x: Tensor, groups: int) -> Tensor:
    """Give a number for each image, the same in each of ``groups`` groups of neighbours."""
    # float32: squares of half precision overflow beyond 255
    grouped = x.float().reshape(groups, len(x) // groups, -1)
    deviations = (grouped.var(1, correction=0) + _EPS).sqrt().mean(1)
    return deviations.repeat_interleave(len(x) // groups)
