"""A convolution of few channels for CPUs, whose input gradient is a product with patches."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_advreg.attacks.folding import is_plain, swap

_FEW = 4


class PatchGradientConv2d(nn.Module):
    """A convolution of images with few channels, frozen, with a fast gradient on the CPU.

    The first layer of a network maps 1 or 3 channels to many. CPU libraries vectorise over channels, and its input
    gradient, which training never needs, has only these few. Here it is one matrix product, ``W^T g`` for all
    positions, whose patches are added up where they overlap: three to five times faster for grey images.

    Args:
        conv: The convolution: float32, one group, zero padding. Its parameters are shared.

    Example:
        >>> conv = nn.Conv2d(1, 16, 4, stride=2, padding=1)
        >>> x = torch.rand(2, 1, 8, 8)
        >>> torch.equal(PatchGradientConv2d(conv)(x), conv(x))
        True
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.training = conv.training
        self.weight, self.bias = conv.weight, conv.bias
        self._geometry: dict[str, Any] = {
            name: cast(tuple[int, int], getattr(conv, name)) for name in ("stride", "padding", "dilation")
        }

    def forward(self, x: Tensor) -> Tensor:
        """Give the convolution.

        Args:
            x: Images ``(N, C, H, W)``.

        Returns:
            Features ``(N, C', H', W')``.
        """
        if x.dtype != torch.float32 or not x.is_cpu or x.dim() != 4 or torch.is_autocast_enabled("cpu"):
            return F.conv2d(x, self.weight, self.bias, **self._geometry)
        return _PatchGradient.apply(x, self.weight, self.bias, self._geometry)


class _PatchGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: dict[str, Any]) -> Tensor:  # noqa: ANN401
        ctx.weight, ctx.geometry, ctx.size = weight.detach(), geometry, x.shape[2:]
        return F.conv2d(x, weight, bias, **geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        weight = ctx.weight
        # contiguous either way: the channels of a position lie side by side, or its positions do
        patches = torch.matmul(weight.flatten(1).T, grad.flatten(2))
        # images as channels of one: the fold runs through a batch image by image
        images = F.fold(patches.flatten(0, 1), ctx.size, weight.shape[2:], **ctx.geometry)
        return images.view(-1, weight.shape[1], *ctx.size), None, None, None


def use_patch_gradients(network: nn.Module) -> None:
    """Replace every convolution of few input channels, in place.

    Args:
        network: A network that nobody else uses, in eval mode.
    """
    for layer in list(network.modules()):
        if (
            type(layer) is nn.Conv2d
            and is_plain(layer)
            and layer.in_channels <= _FEW
            and layer.groups == 1
            and (layer.padding_mode == "zeros" and not isinstance(layer.padding, str))
            and (layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu")
        ):
            swap(network, layer, PatchGradientConv2d(layer))
