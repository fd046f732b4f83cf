"""Half-precision images: attack in float32, and round the result so that it stays feasible."""

import torch
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def working_precision(x: Tensor) -> Tensor:
    """Give half-precision tensors in float32, others as they are."""
    return x.float() if x.dtype in _HALF else x


def round_towards(x_adv: Tensor, x: Tensor) -> Tensor:
    """Round attacked images to the dtype of ``x`` without moving any pixel further from ``x``.

    Rounding to the nearest half-precision value could leave the ball by up to 1/512. Where it moves a pixel away from
    the clean one, the next representable value towards the clean one is taken instead.

    Args:
        x_adv: Attacked images in [0, 1], in working precision.
        x: Clean images in [0, 1].

    Returns:
        Images of the dtype of ``x``, detached.

    Example:
        >>> x = torch.tensor([0.5], dtype=torch.bfloat16)
        >>> round_towards(torch.tensor([0.53125 - 1e-4]), x).item()  # nearest would be 0.53125
        0.52734375
    """
    x_adv = x_adv.detach()
    if x.dtype not in _HALF:
        return x_adv
    # + 0 turns -0 into 0, and pixels just below 0 count as 0, so that bits are ordered like the values
    rounded, clean = x_adv.to(x.dtype) + 0, x.clamp(min=0) + 0
    away = (rounded.float() - clean.float()).abs() > (x_adv - clean.float()).abs()
    bits, clean_bits = rounded.view(torch.int16), clean.view(torch.int16)
    towards = bits - (bits - clean_bits).sign()
    return torch.where(away, towards, bits).view(x.dtype)
