"""Which parameters a penalty or a constraint acts on."""

from collections.abc import Iterator

from torch import nn


def weights(module: nn.Module, *, include_biases: bool = False) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the named trainable parameters that regularisation acts on, each once.

    Weights are the parameters with two dimensions or more: kernels, matrices, embeddings. Biases and the scales of
    normalisation layers have one, and are left out, since pulling them to zero limits what the network can centre and
    scale without limiting its capacity.

    Args:
        module: The network.
        include_biases: Yield biases and normalisation scales too.

    Yields:
        Names and parameters, in the order of ``module.named_parameters()``.

    Example:
        >>> [name for name, _ in weights(nn.Linear(2, 3))]
        ['weight']
    """
    # the scales of a LayerNorm over (C, H, W) have three dimensions, and are scales all the same
    scales = {id(p) for child in module.modules() if isinstance(child, nn.LayerNorm) for p in child.parameters()}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and (include_biases or (parameter.dim() > 1 and id(parameter) not in scales)):
            yield name, parameter
