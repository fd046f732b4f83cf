"""The convolution of a layer as a linear map from images to images, and its spectral norm."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_advreg.constraints.units import Convolution

_FORWARD = (F.conv1d, F.conv2d, F.conv3d)
_BACKWARD = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


def input_shape(layer: Convolution, weight: Tensor, size: int) -> tuple[int, ...]:
    """Give the shape of an image that :func:`apply` takes.

    Args:
        layer: A convolution, or a transposed one, which is the adjoint of a convolution with the same kernel.
        weight: Its kernel.
        size: Pixels a side; where the kernel is larger, as many as it needs.

    Returns:
        ``(channels, ...)``.
    """
    spread = [d * (k - 1) + 1 for d, k in zip(layer.dilation, weight.shape[2:], strict=True)]
    return weight.shape[1] * layer.groups, *(max(size, s) for s in spread)


def apply(layer: Convolution, weight: Tensor, images: Tensor) -> Tensor:
    """Convolve images with a kernel as a layer does, without its bias.

    Args:
        layer: A convolution; of a transposed one it is the adjoint, which has the same norm.
        weight: The kernel.
        images: Images ``(N, channels, ...)``.
    """
    forward = _FORWARD[weight.dim() - 3]
    return forward(images, weight, None, layer.stride, _padding(layer, weight), layer.dilation, layer.groups)


def adjoint(layer: Convolution, weight: Tensor, maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Apply the adjoint of :func:`apply`.

    Args:
        layer: The same layer.
        weight: The same kernel.
        maps: What :func:`apply` gave.
        size: The spatial shape of the images it was given.
    """
    padding = _padding(layer, weight)
    reached = [
        (m - 1) * s - 2 * p + d * (k - 1) + 1
        for m, s, p, d, k in zip(maps.shape[2:], layer.stride, padding, layer.dilation, weight.shape[2:], strict=True)
    ]
    # pixels at the end that the stride has skipped
    skipped = [full - found for full, found in zip(size, reached, strict=True)]
    backward = _BACKWARD[weight.dim() - 3]
    return backward(maps, weight, None, layer.stride, padding, skipped, layer.groups, layer.dilation)


def norm_bound(layer: Convolution, weight: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bound the spectral norm of a convolution with zeros around, on images of one size, from above.

    A convolution with stride is one without on the images split into their phases, of which each has a channel. With
    room around, it is a circular convolution of which input and output are parts, and that one has the norm
    ``max_f sigma(K(f))`` over the frequencies f, with ``K(f)`` the matrix of the kernels' Fourier transforms (Sedghi et
    al. 2019). For maps that are large beside the kernel the bound is close to the norm.

    Args:
        layer: A convolution, or a transposed one, of which the norm is that of its adjoint.
        weight: Its kernel, floating point.
        size: Spatial shape of the input of the convolution: of the output, where it is transposed.

    Returns:
        The bound, a scalar in float32 at least.

    Example:
        >>> blur = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        >>> _ = torch.nn.init.constant_(blur.weight, 1 / 9)
        >>> round(norm_bound(blur, blur.weight, (16, 16)).item(), 4)
        1.0
    """
    kernel = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    kernel = kernel.unflatten(0, (layer.groups, -1))
    grid = []
    for dim, pixels in enumerate(size):
        kernel, phases = _split(kernel, dim + 3, layer.dilation[dim], layer.stride[dim])
        grid.append(math.ceil((pixels + phases - 1) / phases) + kernel.shape[dim + 3] - 1)
    spectrum = torch.fft.rfftn(kernel, s=grid, dim=list(range(3, kernel.dim())))
    by_frequency = spectrum.flatten(3).permute(0, 3, 1, 2)
    gram = by_frequency @ by_frequency.mH
    if by_frequency.shape[2] > by_frequency.shape[3]:
        gram = by_frequency.mH @ by_frequency
    return torch.linalg.eigvalsh(gram).amax().clamp(min=0).sqrt()


def _split(kernel: Tensor, dim: int, dilation: int, stride: int) -> tuple[Tensor, int]:
    """Spread a kernel along one dimension, and move the phases of the stride to the channels."""
    taps = kernel.shape[dim]
    spread = dilation * (taps - 1) + 1
    length = stride * math.ceil(spread / stride)
    shape = list(kernel.shape)
    shape[dim] = length
    full = kernel.new_zeros(shape)
    full.narrow(dim, 0, spread).index_copy_(dim, torch.arange(0, spread, dilation, device=kernel.device), kernel)
    phased = full.unflatten(dim, (length // stride, stride)).movedim(dim + 1, 3)
    return phased.flatten(2, 3), stride


def _padding(layer: Convolution, weight: Tensor) -> tuple[int, ...]:
    if layer.padding == "valid":
        return (0,) * (weight.dim() - 2)
    if isinstance(layer.padding, str):
        # more zeros than the layer where the kernel is even: the norm of a larger map
        return tuple(-(-d * (k - 1) // 2) for d, k in zip(layer.dilation, weight.shape[2:], strict=True))
    return layer.padding
