"""A fast copy of a network to search on; what it finds is confirmed on the original."""

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lightning_advreg.attacks.folding import agree, fold_batchnorm
from lightning_advreg.attacks.inplace import use_inplace_activations
from lightning_advreg.attacks.model_state import Model
from lightning_advreg.attacks.patch_gradient import use_patch_gradients
from lightning_advreg.attacks.precision import working_precision
from lightning_advreg.attacks.randomness import seeded
from lightning_advreg.attacks.winograd import use_winograd

SearchDtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""The precision of a search."""

_TRANSFORMS = ("fold_batchnorm", "inplace_activations", "channels_last", "cpu_convolutions")
_EXAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Acceleration:
    """How the network is made fast for a search.

    Args:
        channels_last: Keep the channels of a pixel side by side in memory, as fast convolutions want them.
        fold_batchnorm: Fold every BatchNorm after a convolution into it.
        inplace_activations: Let every ``nn.ReLU`` overwrite what it reads.
        cpu_convolutions: On the CPU, run 3x3 convolutions of stride 1 between 128 channels or more with a quarter of
            the multiplications (Lavin & Gray, 2016), and gradients of convolutions of up to 4 channels as matrix
            products. Left out where the copy is compiled or in lower precision.
        compile: Compile with ``torch.compile``, for batches of any size. It takes a minute or two and a C++ compiler;
            on the CPU, Winograd convolutions are faster.
        search_dtype: The precision of the search. ``bfloat16`` and ``float16`` need hardware that has them.

    Raises:
        TypeError: If a switch is not a bool.
        ValueError: If ``search_dtype`` is none of the three.

    Example:
        >>> Acceleration(search_dtype="bfloat16").fold_batchnorm
        True
    """

    channels_last: bool = True
    fold_batchnorm: bool = True
    inplace_activations: bool = True
    cpu_convolutions: bool = True
    compile: bool = False
    search_dtype: SearchDtype = "float32"

    def __post_init__(self) -> None:
        for name in (*_TRANSFORMS, "compile"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be true or false, got {getattr(self, name)!r}.")
        if self.search_dtype not in get_args(SearchDtype):
            raise ValueError(f"search_dtype must be float32, bfloat16 or float16, got {self.search_dtype!r}.")


class SearchModel:
    """A model to search on, beside the original that decides.

    Args:
        original: The model as given.
        fast: A copy of it to search on, or None to search on the original.
        acceleration: What was done to the copy.

    Attributes:
        original: The model as given.
        exact: Whether the search runs on the original itself, so that nothing is left to confirm.
        acceleration: What was done to the copy, after whatever had to be left out; None where there is no copy.
        watch: Called by an attack in every step, with the number of images that have just fallen.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10)).eval()
        >>> x = torch.rand(2, 3, 8, 8)
        >>> search = search_model(net, Acceleration(), x)
        >>> search.exact, torch.allclose(search(x), search.confirm(x), atol=1e-5)
        (False, True)
    """

    def __init__(self, original: Model, fast: Model | None = None, acceleration: Acceleration | None = None) -> None:
        self.original = original
        self.exact = fast is None
        self.acceleration = acceleration
        self.watch: Callable[[int], None] | None = None
        self._fast = original if fast is None else fast

    def __call__(self, x: Tensor) -> Tensor:
        """Give the logits of the copy, in float32 or the dtype of ``x`` if wider, differentiable in ``x``.

        Args:
            x: Images in [0, 1], of shape ``(N, C, H, W)``, in a dtype that the original takes.

        Returns:
            Logits of shape ``(N, K)``.
        """
        inputs = x
        if self.acceleration is not None:
            if self.acceleration.search_dtype != "float32":
                inputs = inputs.to(getattr(torch, self.acceleration.search_dtype))
            if self.acceleration.channels_last and x.dim() == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            if self.acceleration.compile:
                # batches shrink as images fall: one program for all sizes, but PyTorch compiles size 1 apart
                inputs = torch.cat([inputs, inputs]) if len(x) == 1 else inputs
                torch._dynamo.maybe_mark_dynamic(inputs, 0)
        logits = working_precision(self._fast(inputs))[: len(x)]
        return logits.to(torch.promote_types(logits.dtype, x.dtype))

    @torch.no_grad()
    def confirm(self, x: Tensor) -> Tensor:
        """Give the logits of the original, in its own precision, without gradient.

        Args:
            x: Images in [0, 1], of shape ``(N, C, H, W)``, in a dtype that the original takes.

        Returns:
            Logits of shape ``(N, K)``.
        """
        return self.original(x)


def search_model(model: Model, acceleration: Acceleration | None, example: Tensor) -> SearchModel:
    """Make a fast copy of a network to search on.

    The copy is compared with the original on ``example``. A transformation that fails, or changes the logits by more
    than rounding (1e-3 of the largest; 1e-2 on CUDA), is left out. Where none can stay, or the network cannot be
    copied, the search runs on the original and a warning says why. A lower precision is applied last, and has to give
    finite logits.

    The original is never changed, and later changes of it do not reach the copy.

    Args:
        model: The model, in eval mode. A function, a bound method, a compiled network and one with a layer in training
            mode are searched as they are. Networks of other dtypes than float32 keep theirs.
        acceleration: How to make it fast, or None to search on the original.
        example: Images of the kind to be searched, of which up to 8 are used.

    Returns:
        The model to search on.

    Example:
        >>> search_model(lambda x: x.flatten(1), Acceleration(), torch.rand(1, 1, 2, 2)).exact
        True
    """
    if acceleration is None or not isinstance(model, nn.Module) or _stays_as_it_is(model, acceleration):
        return SearchModel(model)
    network = model.module if isinstance(model, DistributedDataParallel) else model
    device = example.device
    # autocast would hide in its rounding what a transformation changes; a network may draw random numbers
    with torch.inference_mode(False), torch.autocast(device.type, enabled=False), seeded(0, device):
        example = example[:_EXAMPLES].detach().clone()
        try:
            with torch.no_grad():
                fast, done = _first_that_agrees(network, acceleration, example)
        except Exception as error:  # copying and running a network can fail in as many ways as there are networks
            _warn(f"the network itself instead of a fast copy: {_first_line(error)}", stacklevel=3)
            return SearchModel(model)
        if acceleration.search_dtype != "float32" and _is_float32(network):
            with torch.no_grad():
                fast, done = _lowered(fast, done, acceleration.search_dtype, example)
        if acceleration.compile:
            return _compiled(model, fast, done, example)
        return SearchModel(model, fast, done)


def _stays_as_it_is(model: nn.Module, acceleration: Acceleration) -> bool:
    compiled = "_orig_mod" in model._modules or model._compiled_call_impl is not None
    asked = acceleration.compile or acceleration.search_dtype != "float32" or any(_switched_on(acceleration))
    return not asked or compiled or any(child.training for child in model.modules())


def _first_that_agrees(network: nn.Module, asked: Acceleration, example: Tensor) -> tuple[nn.Module, Acceleration]:
    kinds = {type(tensor) for tensor in network.parameters()} - {nn.Parameter}
    if kinds:
        raise TypeError(f"its parameters are of type {kinds.pop().__name__}, which cannot be copied")
    # before the copy: old-style weight norms hold a tensor that can be copied only after a pass with frozen parameters
    expected = network(example)
    failure: Exception = ValueError("no acceleration is left")
    for attempt in _attempts(asked):
        fast = deepcopy(network).requires_grad_(False)
        try:
            if attempt.fold_batchnorm:
                fold_batchnorm(fast, example)
            if attempt.inplace_activations:
                use_inplace_activations(fast)
            if attempt.channels_last:
                fast = fast.to(memory_format=torch.channels_last)
            if attempt.cpu_convolutions:
                use_winograd(fast)
                use_patch_gradients(fast)
            search = SearchModel(network, fast, attempt)
            logits = search(example)
            if attempt.inplace_activations:
                _go_back(search, example)
        except Exception as error:  # a network that looks at its layers or their memory can fail in any way
            failure = error
            continue
        if agree(logits, expected):
            return fast, attempt
        failure = ValueError("the logits of the copy differ")
    raise failure


def _go_back(search: SearchModel, example: Tensor) -> None:
    """Raise if a tensor that a gradient needs was overwritten in the forward pass."""
    with torch.enable_grad():
        leaf = example.clone().requires_grad_()
        logits = search(leaf)
        if logits.requires_grad:
            torch.autograd.grad(logits.sum(), leaf, allow_unused=True)


def _attempts(asked: Acceleration) -> Iterator[Acceleration]:
    """Leave out as few transformations as possible, those named first in `_TRANSFORMS` first."""
    more_follows = asked.compile or asked.search_dtype != "float32"
    # compiled or in half precision, PyTorch's own convolution is faster
    own = asked.cpu_convolutions and not more_follows
    asked = replace(asked, search_dtype="float32", compile=False, cpu_convolutions=own)
    on = _switched_on(asked)
    for count in range(len(on), -1 if more_follows else 0, -1):
        # in the reverse order of `combinations`, so that what is named first goes first
        for kept in reversed(list(combinations(on, count))):
            switches: dict[str, Any] = {name: name in kept for name in _TRANSFORMS}
            yield replace(asked, **switches)


def _switched_on(acceleration: Acceleration) -> list[str]:
    return [name for name in _TRANSFORMS if getattr(acceleration, name)]


def _lowered(
    fast: nn.Module, done: Acceleration, dtype: SearchDtype, example: Tensor
) -> tuple[nn.Module, Acceleration]:
    lowered, lower = deepcopy(fast).to(getattr(torch, dtype)), replace(done, search_dtype=dtype)
    try:
        reason = "its logits are not finite"
        if bool(SearchModel(fast, lowered, lower)(example).isfinite().all()):
            return lowered, lower
    except Exception as error:  # layers without a kernel for the dtype, constants of another dtype
        reason = _first_line(error)
    _warn(f"a copy in float32 instead of {dtype}: {reason}", stacklevel=4)
    return fast, done


def _compiled(model: Model, fast: nn.Module, done: Acceleration, example: Tensor) -> SearchModel:
    plain = SearchModel(model, fast, done)
    search = SearchModel(model, torch.compile(fast), replace(done, compile=True))
    try:
        with torch.no_grad():
            expected = plain(example)
            search(example)
        with torch.enable_grad():
            leaf = example.requires_grad_()
            logits = search(leaf)
            torch.autograd.grad(logits.sum(), leaf)
        reason = "its logits differ"
        if agree(logits.detach(), expected):
            return search
    except Exception as error:  # compilers fail in any way: none installed, an operation they cannot lower
        reason = _first_line(error)
    _warn(f"a copy that is not compiled: {reason}", stacklevel=4)
    return plain


def _is_float32(network: nn.Module) -> bool:
    tensors = chain(network.parameters(), network.buffers())
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")


def _warn(what: str, stacklevel: int) -> None:
    warnings.warn(f"The search runs on {what}.", stacklevel=stacklevel)
