"""Where the residual branches of a foreign network end."""

import operator
from dataclasses import dataclass

import torch
from torch import fx, nn

_SUMS = {operator.add, operator.iadd, torch.add}
_WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class Branch:
    """A residual branch: the longer of the two operands of a sum, where both come from the same features.

    Args:
        block: The name of the module whose ``forward`` sums.
        end: The name of the layer that gives the branch.
        layers: The names of all layers of the branch that the block calls, in order, ``end`` or its container last.
    """

    block: str
    end: str
    layers: tuple[str, ...]


def residual_branches(network: nn.Module) -> list[Branch]:
    """Find the residual branches of a network, by symbolic tracing of each module on its own.

    Tracing a block alone, with all of its children opaque, works for networks that cannot be traced as a whole. A sum
    is residual if its operands share an ancestor, such as the input of the block, and one of them takes more layers
    than the other, which is the skip connection or its projection.

    Args:
        network: The network; it is left as it is.

    Returns:
        The branches, in the order of ``network.named_modules()`` and within a block in the order of its sums. Left out
        are those that do not end in a layer, or in one that the block calls more than once, and those of blocks that
        decide by values or shapes what they do, which cannot be traced.

    Example:
        >>> from lightning_advreg.networks import ResNet18
        >>> branches = residual_branches(ResNet18(width=4))
        >>> len(branches), branches[2].block, branches[2].end
        (8, 'stages.1.0', 'stages.1.0.drop_path')
    """
    branches: list[Branch] = []
    for name, block in network.named_modules():
        if isinstance(block, nn.Sequential | nn.ModuleList | nn.ModuleDict) or not _has_layers(block):
            continue
        graph = _traced(block)
        if graph is not None:
            branches += _branches_of(name, block, graph)
    return branches


class _Opaque(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _has_layers(block: nn.Module) -> bool:
    # what has no weighted layers, such as a metric, is not to be called for nothing
    return any(True for _ in block.children()) and any(isinstance(child, _WEIGHTED) for child in block.modules())


def _traced(block: nn.Module) -> fx.Graph | None:
    try:
        return _Opaque().trace(block)
    except Exception:  # a forward can refuse to be traced in as many ways as there are networks
        return None


def _branches_of(name: str, block: nn.Module, graph: fx.Graph) -> list[Branch]:
    prefix = f"{name}." if name else ""
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    found = []
    for node in graph.nodes:
        operands = [arg for arg in node.args[:2] if isinstance(arg, fx.Node)]
        if not (_is_sum(node) and len(operands) == 2):
            continue
        first, second = (_ancestors(operand) for operand in operands)
        if first.isdisjoint(second):
            continue
        own = [_calls(graph, a, b) for a, b in ((first, second), (second, first))]
        if len(own[0]) == len(own[1]):
            continue
        longer = 0 if len(own[0]) > len(own[1]) else 1
        last = operands[longer]
        if last.op == "call_module" and calls.count(last.target) == 1:
            end = _last_layer(block, str(last.target))
            found.append(Branch(name, prefix + end, tuple(prefix + call for call in own[longer])))
    return found


def _is_sum(node: fx.Node) -> bool:
    return (node.op == "call_function" and node.target in _SUMS) or (
        node.op == "call_method" and node.target in ("add", "add_")
    )


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting += current.all_input_nodes
    return found


def _calls(graph: fx.Graph, nodes: set[fx.Node], without: set[fx.Node]) -> list[str]:
    return [str(node.target) for node in graph.nodes if node in nodes - without and node.op == "call_module"]


def _last_layer(block: nn.Module, name: str) -> str:
    layer = block.get_submodule(name)
    while isinstance(layer, nn.Sequential) and type(layer).forward is nn.Sequential.forward and len(layer) > 0:
        last, layer = list(layer.named_children())[-1]
        name = f"{name}.{last}"
    return name
