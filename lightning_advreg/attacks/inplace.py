"""Activations that overwrite what they read: one pass through memory less, and no new memory."""

from torch import nn

from lightning_advreg.attacks.folding import is_plain


def use_inplace_activations(network: nn.Module) -> None:
    """Let every ReLU of a network work in place.

    Wrong where its input is used elsewhere too: the outputs, or PyTorch's check of saved tensors in a backward pass,
    tell.

    Args:
        network: A network that nobody else uses.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> use_inplace_activations(net)
        >>> net[1]
        ReLU(inplace=True)
    """
    for layer in network.modules():
        if type(layer) is nn.ReLU and is_plain(layer):
            layer.inplace = True
