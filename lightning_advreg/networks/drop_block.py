"""DropBlock for feature maps of any size."""

from torch import Tensor, nn

from lightning_advreg.networks.arguments import check_dropout, check_sizes


class DropBlock(nn.Module):
    """Drop squares of the channels of feature maps, in training (Ghiasi et al. 2018, algorithm 1).

    torchvision's ``drop_block2d``, which raises an error where a map is smaller than the square and has an even number
    of rows or columns. Here the largest odd square that fits takes its place.

    Args:
        p: The share of positions that is dropped, on average, in [0, 1).
        block_size: The side of the squares in pixels, an odd number.

    Raises:
        ValueError: If an argument is out of its range; in training, if features are not ``(N, C, H, W)``.

    Example:
        >>> import torch
        >>> DropBlock(0.1, block_size=7).train()(torch.rand(2, 3, 4, 4)).shape
        torch.Size([2, 3, 4, 4])
    """

    def __init__(self, p: float, block_size: int = 7) -> None:
        super().__init__()
        check_dropout(p=p)
        self.p, self.block_size = p, check_block_size(block_size)

    def forward(self, x: Tensor) -> Tensor:
        """Give features ``(N, C, H, W)`` with squares set to zero, and the others scaled up."""
        # a second to import where nobody else has yet
        from torchvision.ops import drop_block2d

        fitting = min(self.block_size, *x.shape[2:])
        dropped: Tensor = drop_block2d(x, self.p, fitting - 1 + fitting % 2, training=self.training)
        return dropped

    def extra_repr(self) -> str:
        """Show share and size."""
        return f"p={self.p}, block_size={self.block_size}"


def check_block_size(block_size: int) -> int:
    """Give the side of a square, if it is one that has a middle.

    Raises:
        ValueError: If it is not an odd number.

    Example:
        >>> check_block_size(4)
        Traceback (most recent call last):
        ...
        ValueError: block_size must be odd, so that squares have a middle, got 4; give 3 or 5.
    """
    check_sizes(block_size=block_size)
    if block_size % 2 == 0:
        raise ValueError(
            f"block_size must be odd, so that squares have a middle, got {block_size}; give {block_size - 1} or "
            f"{block_size + 1}."
        )
    return block_size
