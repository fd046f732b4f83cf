"""By how much each operation of PyTorch can stretch a difference, as a function of its arguments."""

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from lightning_advreg.constraints.operators import norm_bound

Rule = Callable[["Call"], Tensor]
"""From a call of an operation to the Lipschitz bound of its output."""


class Unbounded(ValueError):
    """An operation that has no bound, or none that is known here."""


class Call:
    """A call of an operation, of whose arguments some depend on the images.

    Args:
        name: The name of the operation.
        args: Its arguments by position.
        kwargs: Those by name.
        bound_of: The Lipschitz bound of a value, or None where it does not depend on the images.
    """

    def __init__(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], bound_of: Callable[[object], Tensor | None]
    ) -> None:
        self.name, self.args, self.kwargs, self.bound_of = name, args, kwargs, bound_of
        values = [*args, *kwargs.values()]
        self.items = [i for value in values for i in (value if isinstance(value, list | tuple) else [value])]
        self.bounds = [b for b in map(bound_of, self.items) if b is not None]

    @property
    def depends(self) -> bool:
        """Whether an argument depends on the images."""
        return bool(self.bounds)

    def get(self, position: int, name: str, default: Any = None) -> Any:  # noqa: ANN401
        """Give an argument by its position or name."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def alone(self) -> Tensor:
        """Give the bound of the first argument, where no other depends on the images."""
        if len(self.bounds) != 1 or self.bound_of(self.items[0]) is None:
            raise Unbounded(f"{self.name} of several features, or with features for weights, has no bound.")
        return self.bounds[0]


def _linear(call: Call) -> Tensor:
    return call.alone() * torch.linalg.matrix_norm(_precise(call.get(1, "weight")), 2)


def _convolution(dims: int, transposed: bool) -> Rule:
    kinds: dict[tuple[int, bool], type[Any]] = {
        (1, False): nn.Conv1d, (2, False): nn.Conv2d, (3, False): nn.Conv3d,
        (1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d, (3, True): nn.ConvTranspose3d,
    }  # fmt: skip

    def rule(call: Call) -> Tensor:
        x, weight = call.get(0, "input"), call.get(1, "weight")
        groups = call.get(6, "groups", 1)
        stride = _each(call.get(3, "stride", 1), dims)
        dilation = _each(call.get(7, "dilation", 1) if transposed else call.get(5, "dilation", 1), dims)
        # a layer without memory, which carries the arguments
        with torch.device("meta"):
            layer = kinds[dims, transposed](groups, groups, 1, stride, dilation=dilation, groups=groups)
        size = tuple(x.shape[2:])
        if transposed:
            # the output before padding crops it
            spreads = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
            size = tuple((n - 1) * s + k for n, s, k in zip(size, stride, spreads, strict=True))
        return call.alone() * norm_bound(layer, weight, size)

    return rule


def _batch_norm(call: Call) -> Tensor:
    variance = call.get(2, "running_var")
    if call.get(5, "training", False) or variance is None:
        raise Unbounded("BatchNorm by the statistics of a batch has no bound; keep its running statistics.")
    scale = call.get(3, "weight")
    factors = (variance + call.get(7, "eps", 1e-5)).rsqrt()
    return call.alone() * (factors if scale is None else scale.detach() * factors).abs().max()


def _max_pool(call: Call) -> Tensor:
    # of a dilated window every other tap may meet the same stride
    return call.alone() * math.sqrt(math.prod(_overlaps(call, call.get(4, "dilation", 1))))


def _average_pool(call: Call) -> Tensor:
    dims = _dimensions(call)
    if call.get(6, "divisor_override") is not None:
        raise Unbounded(f"{call.name} with divisor_override is an operation without a known bound.")
    window = math.prod(_each(call.get(1, "kernel_size"), dims))
    padded, ceiled = any(_each(call.get(3, "padding", 0), dims)), call.get(4, "ceil_mode", False)
    # at the edge a window may hold as little as one pixel, if only those count
    least = 1 if ceiled or (padded and not call.get(5, "count_include_pad", True)) else window
    return call.alone() * math.sqrt(math.prod(_overlaps(call)) / least)


def _overlaps(call: Call, dilation: Any = 1) -> list[int]:  # noqa: ANN401
    """In how many windows a pixel lies at most, along each dimension."""
    dims = _dimensions(call)
    kernel = _each(call.get(1, "kernel_size"), dims)
    stride = _each(call.get(2, "stride") or kernel, dims)
    return [math.ceil(k * math.gcd(s, d) / s) for k, s, d in zip(kernel, stride, _each(dilation, dims), strict=True)]


def _adaptive_average_pool(call: Call) -> Tensor:
    dims = _dimensions(call)
    sizes = call.get(0, "input").shape[-dims:]
    factor = 1.0
    for pixels, wanted in zip(sizes, _each(call.get(1, "output_size"), dims), strict=True):
        cells = pixels if wanted is None else wanted
        # the largest sum of a column of the matrix, whose rows have the sum 1
        columns = [0.0] * pixels
        for cell in range(cells):
            begin, end = cell * pixels // cells, -(-(cell + 1) * pixels // cells)
            for pixel in range(begin, end):
                columns[pixel] += 1 / (end - begin)
        factor *= max(columns)
    return call.alone() * math.sqrt(factor)


def _dimensions(call: Call) -> int:
    return next(n for n in (1, 2, 3) if f"{n}d" in call.name)


def _mean(call: Call) -> Tensor:
    x, dims = call.get(0, "input"), call.get(1, "dim")
    over = range(x.dim()) if dims is None or dims == () else _each(dims, 1)
    return call.alone() / math.sqrt(math.prod(x.shape[d] for d in over))


def _sum_over(call: Call) -> Tensor:
    x, dims = call.get(0, "input"), call.get(1, "dim")
    over = range(x.dim()) if dims is None or dims == () else _each(dims, 1)
    return call.alone() * math.sqrt(math.prod(x.shape[d] for d in over))


def _sum_of(call: Call) -> Tensor:
    features = [i for i in call.items if call.bound_of(i) is not None]
    if len({i.shape for i in features}) > 1:
        raise Unbounded(f"{call.name} of features of different shapes is an operation without a known bound.")
    _same_size(call, features[0])
    alpha = abs(call.kwargs.get("alpha", 1))
    return torch.stack(call.bounds).sum() * max(alpha, 1)


def _side_by_side(call: Call) -> Tensor:
    return torch.stack(call.bounds).norm()


def _product(call: Call) -> Tensor:
    if len(call.bounds) > 1:
        raise Unbounded(f"{call.name} of two features, as in attention or gates, has no bound.")
    _same_size(call, next(i for i in call.items if call.bound_of(i) is not None))
    return call.bounds[0] * _largest(next(i for i in call.items if call.bound_of(i) is None))


def _quotient(call: Call) -> Tensor:
    if call.kwargs.get("rounding_mode") is not None:
        raise Unbounded(f"{call.name} with rounding_mode jumps, and has no bound.")
    _same_size(call, call.args[0])
    return call.alone() * _largest(1 / call.get(1, "other"))


def _same_size(call: Call, feature: Tensor) -> None:
    # features spread over a larger constant count several times
    if torch.broadcast_shapes(*(i.shape for i in call.items if isinstance(i, Tensor))) != feature.shape:
        raise Unbounded(f"{call.name} repeats features, an operation without a known bound.")


def _largest(value: Any) -> Tensor:  # noqa: ANN401
    return torch.as_tensor(value).detach().abs().max()


def _steepest(slope: float) -> Rule:
    return lambda call: call.alone() * slope


def _scaled(position: int, name: str, default: float) -> Rule:
    return lambda call: call.alone() * max(1.0, abs(call.get(position, name, default)))


def _dropout(call: Call) -> Tensor:
    if call.get(2, "training", True):
        raise Unbounded(f"{call.name} in training is random and has no bound.")
    return call.alone()


def _part(call: Call) -> Tensor:
    index = call.args[1]
    parts = index if isinstance(index, tuple) else (index,)
    if not all(part is None or part is ... or isinstance(part, int | slice) for part in parts):
        raise Unbounded("indexing by lists or tensors may repeat features, an operation without a known bound.")
    return call.alone()


def _pad(call: Call) -> Tensor:
    if call.get(2, "mode", "constant") != "constant":
        raise Unbounded(f"padding by {call.get(2, 'mode')!r} is an operation without a known bound.")
    return call.alone()


def _each(value: Any, dims: int) -> tuple[Any, ...]:  # noqa: ANN401
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * dims if len(values) == 1 else values


def _precise(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


_SHAPES = "flatten view reshape unflatten permute transpose contiguous squeeze unsqueeze narrow select movedim"
_COPIES = "clone detach to float double half bfloat16 neg"
_GENTLE = "relu relu_ relu6 hardtanh tanh tanh_ softplus abs clamp clamp_min clamp_max"

RULES: Final[dict[str, Rule]] = {
    **dict.fromkeys(f"{_SHAPES} {_COPIES} {_GENTLE}".split(), _steepest(1.0)),
    **{f"conv{n}d": _convolution(n, transposed=False) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _convolution(n, transposed=True) for n in (1, 2, 3)},
    **{f"max_pool{n}d": _max_pool for n in (1, 2, 3)},
    **{f"avg_pool{n}d": _average_pool for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": _adaptive_average_pool for n in (1, 2, 3)},
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"), _dropout),
    **dict.fromkeys(("add", "sub", "rsub", "__rsub__", "__radd__", "__add__", "__sub__"), _sum_of),
    **dict.fromkeys(("add_", "sub_", "__iadd__", "__isub__"), _sum_of),
    **dict.fromkeys(("mul", "__mul__", "__rmul__", "mul_", "__imul__"), _product),
    **dict.fromkeys(("div", "true_divide", "__truediv__", "div_", "__itruediv__"), _quotient),
    **dict.fromkeys(("cat", "concat", "stack"), _side_by_side),
    "linear": _linear,
    "batch_norm": _batch_norm,
    "__getitem__": _part,
    "mean": _mean,
    "sum": _sum_over,
    "pad": _pad,
    "leaky_relu": _scaled(1, "negative_slope", 0.01),
    "elu": _scaled(1, "alpha", 1.0),
    "sigmoid": _steepest(0.25),
    # the largest derivatives, rounded up
    "silu": _steepest(1.1),
    "gelu": _steepest(1.13),
    # diag(p) - pp' has rows of absolute sum 2 p (1 - p)
    "softmax": _steepest(0.5),
}
"""Rules by the names of operations."""
