"""Networks with parametrised weights that can be pickled."""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from typing_extensions import Self

_CHAINS = "parametrizations"


class PicklesParametrizations(nn.Module):
    """A mix-in for networks whose layers ``torch.nn.utils.parametrize`` may change, as spectral norm does.

    PyTorch makes a class for each such layer, which no other process knows, and so refuses to pickle it. In a pickle
    of this network it is a layer of the class that it was of before, with what computes its weights beside it; loading
    puts that to work again, and computes nothing. The strategy ``ddp_spawn`` needs that, and so does ``torch.save``.

    Example:
        >>> from lightning_advreg.networks import DCGANDiscriminator
        >>> import pickle
        >>> net = DCGANDiscriminator(width=4, norm="none", spectral_norm=True).eval()
        >>> x = torch.rand(2, 1, 28, 28)
        >>> torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
        True
    """

    def __getstate__(self) -> dict[str, Any]:
        """Give the attributes, with plain layers in place of parametrised ones."""
        return _plain(self, {}).__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes, and parametrise layers again."""
        super().__setstate__(state)
        for layer in list(self.modules()):
            if _CHAINS in layer._modules and not _is_parametrized(layer):
                _parametrize_(layer)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy within this process, where the classes of the layers are known."""
        replica = type(self).__new__(type(self))
        memo[id(self)] = replica
        replica.__dict__ = copy.deepcopy(self.__dict__, memo)
        return replica


def _is_parametrized(layer: nn.Module) -> bool:
    # a layer that comes from a pickle has the chains already, but not yet the class that looks at them
    chains = layer._modules.get(_CHAINS)
    return chains is not None and any(
        isinstance(getattr(type(layer), n, None), property) for n, _ in chains.named_children()
    )


def _plain(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    """Give a twin that shares all tensors, where each layer is of the class that it was of before."""
    if id(module) not in known:
        kind: type[nn.Module] = type(module)
        if _is_parametrized(module):
            kind = parametrize.type_before_parametrizations(module)
        twin = known[id(module)] = kind.__new__(kind)
        twin.__dict__ = dict(module.__dict__)
        twin.__dict__["_modules"] = {
            name: None if child is None else _plain(child, known) for name, child in module._modules.items()
        }
    return known[id(module)]


def _parametrize_(layer: nn.Module) -> None:
    """Let weights be computed by the chains that lie in a layer, without computing any."""
    chains = layer._modules.pop(_CHAINS)
    assert isinstance(chains, nn.ModuleDict)
    for name, chain in chains.items():
        # a stand-in makes the class and its property; registered again, the chain would compute and copy weights
        layer.register_buffer(name, torch.empty(0))
        parametrize.register_parametrization(layer, name, nn.Identity(), unsafe=True)
        layer.get_submodule(_CHAINS).add_module(name, chain)
