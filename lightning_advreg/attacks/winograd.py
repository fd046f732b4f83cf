"""A 3x3 convolution for CPUs that multiplies less."""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_advreg.attacks.folding import is_plain, swap

# Cook-Toom matrices of F(4, 3), for the points 0, 1, -1, 2, -2 and infinity
_G = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
_BT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_AT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class WinogradConv2d(nn.Module):
    """A 3x3 convolution with a quarter of the multiplications, for CPUs, frozen, differentiable in its input.

    Each tile ``d`` of 6x6 inputs gives 4x4 outputs, ``A^T [(G w G^T) * (B^T d B)] A``: 36 products instead of 144 for
    each pair of channels (Lavin & Gray, 2016, section 4.3), run as 36 matrix products over all tiles. Rounding errors
    are about ten times those of a direct convolution in float32. Small batches, other dtypes and autocast take the
    direct way.

    Args:
        conv: The convolution: 3x3 in float32, of stride and dilation 1, one group, zero padding. Its parameters are
            shared; later changes of the weight do not reach the copy.

    Example:
        >>> conv = nn.Conv2d(32, 32, 3, padding=1)
        >>> x = torch.rand(8, 32, 8, 8)
        >>> torch.allclose(WinogradConv2d(conv)(x), conv(x), atol=1e-4)
        True
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.training = conv.training
        self.weight, self.bias, self.padding = conv.weight, conv.bias, cast(tuple[int, int], conv.padding)
        g = torch.tensor(_G, dtype=torch.float64) / 24
        taps = conv.weight.detach().permute(2, 3, 1, 0).reshape(9, -1)
        # in float64 it would cost a noticeable share of a training step, which makes it anew
        self._kernels = (torch.kron(g, g).to(taps.dtype) @ taps).view(36, conv.in_channels, conv.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Give the convolution.

        Args:
            x: Features ``(N, C, H, W)``.

        Returns:
            Features ``(N, C', H', W')``, in memory like those of a convolution.
        """
        height, width = (size + 2 * pad - 2 for size, pad in zip(x.shape[2:], self.padding, strict=True))
        # few tiles would have to pay for reading the kernels, which are four times as large as the weight
        few = len(x) * -(-height // 4) * -(-width // 4) < 8
        if few or x.dtype != torch.float32 or not x.is_cpu or torch.is_autocast_enabled("cpu"):
            return F.conv2d(x, self.weight, self.bias, padding=self.padding)
        return _Winograd.apply(x, self._kernels, self.bias, self.padding)


def use_winograd(network: nn.Module) -> None:
    """Replace every convolution of a network that gains by it, in place.

    Args:
        network: A network that nobody else uses, in eval mode.
    """
    for layer in list(network.modules()):
        if (
            type(layer) is nn.Conv2d
            and is_plain(layer)
            and (layer.kernel_size, layer.stride, layer.dilation, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
            and (layer.padding_mode == "zeros" and not isinstance(layer.padding, str))
            and (layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu")
            # with fewer channels, transforming the tiles costs more than the multiplications it saves: at 64, a direct
            # convolution runs near the peak of a core
            and min(layer.in_channels, layer.out_channels) >= 128
        ):
            swap(network, layer, WinogradConv2d(layer))


class _Winograd(torch.autograd.Function):
    """The algorithm on tiles, some images at a time so that they stay in the cache; its transpose is the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:  # noqa: ANN401
        (n, _, h, w), (pad_h, pad_w) = x.shape, padding
        height, width = h + 2 * pad_h - 2, w + 2 * pad_w - 2
        rows, columns = -(-height // 4), -(-width // 4)
        ctx.kernels, ctx.geometry = kernels, (x.shape, padding, height, width)
        inside, outside = _matrix(_BT, x), _matrix(_AT, x)
        border = (0, 0, pad_w, 4 * columns + 2 - w - pad_w, pad_h, 4 * rows + 2 - h - pad_h)
        padded = F.pad(x.permute(0, 2, 3, 1), border)
        out = x.new_empty((n, rows, 4, columns, 4, kernels.shape[2]))
        for part, result in _parts(padded, out, tiles=rows * columns):
            tiles = part.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)
            products = torch.bmm(_both_sides(inside, tiles).view(36, -1, x.shape[1]), kernels)
            if bias is not None:
                # A^T spreads this entry, alone, evenly over the 4x4 outputs
                products[7] += bias
            outputs = _both_sides(outside, products.view(6, 6, -1)).view(4, 4, *result.shape[:2], columns, -1)
            result.copy_(outputs.permute(2, 3, 0, 4, 1, 5))
        out = out.view(n, 4 * rows, 4 * columns, -1)[:, :height, :width].permute(0, 3, 1, 2)
        out = out.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)
        # no view: autograd forbids an activation in place on a view that a Function made
        return out.new_empty(0).set_(out.untyped_storage(), out.storage_offset(), out.shape, out.stride())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (n, channels, h, w), (pad_h, pad_w), height, width = ctx.geometry
        rows, columns = -(-height // 4), -(-width // 4)
        inside, outside = _matrix(_BT, grad).T.contiguous(), _matrix(_AT, grad).T.contiguous()
        kernels = ctx.kernels.transpose(1, 2)
        padded = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 0, 4 * columns - width, 0, 4 * rows - height))
        out = grad.new_zeros((n, rows + 1, 4, columns + 1, 4, channels))
        for part, result in _parts(padded, out, tiles=rows * columns):
            tiles = part.view(-1, rows, 4, columns, 4, part.shape[-1]).permute(2, 4, 0, 1, 3, 5)
            products = torch.bmm(_both_sides(outside, tiles).view(36, -1, part.shape[-1]), kernels)
            tiles = _both_sides(inside, products.view(6, 6, -1)).view(6, 6, -1, rows, columns, channels)
            tiles = tiles.permute(2, 3, 0, 4, 1, 5)
            # tiles of 6x6, four apart, overlap
            result[:, :-1, :, :-1] += tiles[:, :, :4, :, :4]
            result[:, 1:, :2, :-1] += tiles[:, :, 4:, :, :4]
            result[:, :-1, :, 1:, :2] += tiles[:, :, :4, :, 4:]
            result[:, 1:, :2, 1:, :2] += tiles[:, :, 4:, :, 4:]
        x_grad = out.view(n, 4 * rows + 4, 4 * columns + 4, channels)[:, pad_h : pad_h + h, pad_w : pad_w + w]
        return x_grad.permute(0, 3, 1, 2), None, None, None


def _matrix(entries: tuple[tuple[int, ...], ...], like: Tensor) -> Tensor:
    return torch.tensor(entries, dtype=like.dtype)


def _both_sides(matrix: Tensor, tiles: Tensor) -> Tensor:
    """Give ``M d M^T`` for tiles ``d`` along the first two dimensions: ``(q, q, ...)`` to ``(p, p, all others)``."""
    p, q = matrix.shape
    rows = matrix @ tiles.reshape(q, -1)
    return torch.bmm(matrix.expand(p, p, q), rows.view(p, q, -1))


def _parts(x: Tensor, out: Tensor, tiles: int) -> Iterator[tuple[Tensor, Tensor]]:
    images = max(1, 256 * torch.get_num_threads() // tiles)
    return zip(x.split(images), out.split(images), strict=True)
