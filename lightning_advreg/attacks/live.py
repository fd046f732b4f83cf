"""A fast copy of a network in training: it shares the weights, and follows them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lightning_advreg.attacks.folding import agree, fold_batchnorm, is_plain, swap
from lightning_advreg.attacks.inplace import use_inplace_activations
from lightning_advreg.attacks.model_state import Model, ModelMode, borrowed
from lightning_advreg.attacks.objective import input_gradient
from lightning_advreg.attacks.patch_gradient import use_patch_gradients
from lightning_advreg.attacks.randomness import seeded
from lightning_advreg.attacks.winograd import use_winograd
from lightning_advreg.networks.dual_norm import current_pass, dual_norms

_EXAMPLES = 8
_stand_in: ContextVar[tuple[nn.Module, nn.Module] | None] = ContextVar("stand_in", default=None)


class LiveConv2d(nn.Module):
    """A convolution and the BatchNorm after it, in a fast form for CPUs that is made anew when their tensors change.

    Args:
        conv: The convolution; its tensors stay those of the network in training.
        norm: The BatchNorm that reads its output, in eval mode, or None.

    Example:
        >>> conv = nn.Conv2d(1, 2, 3).requires_grad_(False)
        >>> live, x = LiveConv2d(conv), torch.rand(1, 1, 4, 4)
        >>> _ = live(x)
        >>> _ = conv.weight.mul_(2)
        >>> torch.allclose(live(x), conv(x), atol=1e-6)
        True
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.training = False
        # in a tuple: no submodules, whose modes an attack would change
        self.parts: tuple[nn.Module, ...] = (conv,) if norm is None else (conv, norm)
        self._fast: tuple[nn.Module, ...] = ()
        self._versions: tuple[tuple[int, int, int], ...] = ()
        # some networks look at the dtype or device of a layer's weight
        self.weight = conv.weight

    def forward(self, x: Tensor) -> Tensor:
        """Give the features of the moment's weights.

        Args:
            x: Features ``(N, C, H, W)``.

        Returns:
            Features ``(N, C', H', W')``.
        """
        tensors = chain.from_iterable(chain(part.parameters(), part.buffers()) for part in self.parts)
        # the address as well: a move to another dtype or device keeps the version
        versions = tuple((id(tensor), tensor._version, tensor.data_ptr()) for tensor in tensors)
        if versions != self._versions:
            self._fast, self._versions = (self._fast_form(),), versions
        features: Tensor = self._fast[0](x)
        return features

    @torch.no_grad()
    def _fast_form(self) -> nn.Module:
        conv = cast(nn.Conv2d, self.parts[0])
        conv = deepcopy(conv) if len(self.parts) == 1 else fuse_conv_bn_eval(conv, cast(nn.BatchNorm2d, self.parts[1]))
        holder = nn.Sequential(conv.requires_grad_(False).to(memory_format=torch.channels_last))
        use_winograd(holder)
        use_patch_gradients(holder)
        return holder[0]


class _ChannelsLast(nn.Module):
    def __init__(self, network: nn.Module, original: nn.Module) -> None:
        super().__init__()
        self.training = False
        self.network = network
        # folded are the statistics of one kind of pass; the others are the original's, which is no submodule
        self._folded, self._original = current_pass(), (original,) if dual_norms(original) else ()

    def forward(self, x: Tensor) -> Tensor:
        if self._original and current_pass() != self._folded:
            with borrowed(self._original[0]):
                return cast(Tensor, self._original[0](x))
        logits: Tensor = self.network(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)
        return logits


def live_copy(network: nn.Module, example: Tensor) -> nn.Module | None:
    """Make a fast copy of a network that shares its weights, for attacks in eval mode on the CPU.

    BatchNorm is folded into the convolution before it, activations work in place, and convolutions are run as in
    :class:`Acceleration`. After each change of the weights the next pass folds anew. The copy is compared with the
    network on ``example``, in logits and input gradients.

    Args:
        network: The network, on the CPU and in float32; it is left as it is.
        example: Images of the kind to be attacked, of which up to 8 are used.

    Returns:
        The copy, in eval mode, or None where a copy does not agree or cannot be made.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
        >>> copy = live_copy(net, torch.rand(2, 3, 8, 8))
        >>> copy.network[0].weight is net[0].weight
        True
    """
    tensors = list(chain(network.parameters(), network.buffers()))
    floating = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if floating != {torch.float32} or any(tensor.device.type != "cpu" for tensor in tensors):
        return None
    example = example[:_EXAMPLES].detach().clone().float()
    with borrowed(network), torch.autocast("cpu", enabled=False), seeded(0, example.device):
        try:
            expected, gradient = _logits_and_gradient(network, example)
            with torch.no_grad():
                copy = _copied(network, tensors, example)
            logits, own_gradient = _logits_and_gradient(copy, example)
        except Exception:  # copying and running a network can fail in as many ways as there are networks
            return None
        # a gradient may jump where rounding decides about an activation, in few entries
        close = (own_gradient - gradient).norm() <= 1e-2 * gradient.norm()
        return copy if agree(logits, expected) and bool(close) else None


@contextmanager
def standing_in(network: nn.Module, copy: nn.Module | None) -> Iterator[None]:
    """Let attacks on a network in eval mode run on a copy of it, within this context.

    Args:
        network: The network that attacks are given.
        copy: What they are to run on, or None for the network itself.
    """
    token = _stand_in.set(None if copy is None else (network, copy))
    try:
        yield
    finally:
        _stand_in.reset(token)


def stand_in(model: Model, mode: ModelMode) -> Model:
    """Give the model to attack: the copy that stands in for this one, if there is one."""
    pair = _stand_in.get()
    return pair[1] if pair is not None and model is pair[0] and mode == "eval" else model


def _copied(network: nn.Module, tensors: list[Tensor], example: Tensor) -> nn.Module:
    pairs, inplace = _plan(network, example)
    copy = deepcopy(network, {id(tensor): tensor for tensor in tensors})
    for layer, norm in ((copy.get_submodule(layer), copy.get_submodule(norm)) for layer, norm in pairs):
        swap(copy, layer, LiveConv2d(cast(nn.Conv2d, layer), norm))
        swap(copy, norm, nn.Identity().eval())
    _follow_convolutions(copy)
    if inplace:
        use_inplace_activations(copy)
    return _ChannelsLast(copy, network)


def _plan(network: nn.Module, example: Tensor) -> tuple[list[tuple[str, str]], bool]:
    """Find which BatchNorm may be folded into which convolution, and whether activations may work in place.

    Asked of a copy with other statistics: those of a new network are the identity, for which a wrong fold looks right.
    """
    probe = deepcopy(network)
    for norm in probe.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            for tensor in chain(norm.parameters(recurse=False), norm.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand_like(tensor) + 0.5)
    names = {layer: name for name, layer in probe.named_modules()}
    fold_batchnorm(probe, example, _follow)
    followers = [layer for layer in probe.modules() if isinstance(layer, LiveConv2d)]
    pairs = [(names[layer.parts[0]], names[layer.parts[1]]) for layer in followers]
    _follow_convolutions(probe)
    expected = probe(example)
    use_inplace_activations(probe)
    try:
        with torch.enable_grad():
            logits, _ = _logits_and_gradient(probe, example)
        return pairs, agree(logits, expected)
    except Exception:  # something that a gradient needs was overwritten
        return pairs, False


def _follow_convolutions(network: nn.Module) -> None:
    for layer in list(network.modules()):
        if type(layer) is nn.Conv2d and is_plain(layer):
            swap(network, layer, LiveConv2d(layer))


def _follow(layer: nn.Module, norm: nn.Module) -> nn.Module | None:
    return LiveConv2d(layer, norm) if type(layer) is nn.Conv2d else None


def _logits_and_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    return logits.detach(), input_gradient(logits.logsumexp(1).sum() - logits.mean(1).sum(), leaf)
