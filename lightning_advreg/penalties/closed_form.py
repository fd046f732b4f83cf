"""A scalar whose gradient is known: penalties in a few fused operations, there and back."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Gradient = Callable[[Tensor], Sequence[Tensor]]
"""From the gradient of a scalar to those of the tensors it depends on, in the closed form."""


class _ClosedForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: Gradient, *tensors: Tensor) -> Tensor:  # noqa: ANN401
        ctx.gradient = gradient
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return None, None, *ctx.gradient(grad)


def closed_form(value: Tensor, gradient: Gradient, tensors: Sequence[Tensor]) -> Tensor:
    """Give a scalar function of tensors, with its gradient.

    Autograd would run several kernels for each tensor, there and back; with the formulas a fused operation serves all.

    Args:
        value: The value, computed without a graph.
        gradient: Gives the gradients with respect to ``tensors``, times the gradient of the scalar. It cannot be
            differentiated in turn.
        tensors: What the scalar depends on.

    Example:
        >>> w = torch.tensor([3.0], requires_grad=True)
        >>> squares = closed_form(w.detach().square().sum(), lambda grad: [2 * w.detach() * grad], [w])
        >>> torch.autograd.grad(squares, w)
        (tensor([6.]),)
    """
    result: Tensor = _ClosedForm.apply(value, gradient, *tensors)
    return result


def wide(tensors: Sequence[Tensor]) -> torch.dtype:
    """Give the dtype that sums over tensors are computed in: theirs, and float32 at least.

    Example:
        >>> wide([torch.zeros(1, dtype=torch.float16)]), wide([torch.zeros(1, dtype=torch.float64)])
        (torch.float32, torch.float64)
    """
    # a sum over millions of weights exceeds what float16 can hold, and bfloat16 has three digits
    return functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)


def nothing(module: nn.Module) -> Tensor:
    """Give the penalty of a network without weights: 0, on its device, in float32 at least."""
    parameter = next(module.parameters(), torch.empty(0))
    return parameter.new_zeros((), dtype=wide([parameter]))
