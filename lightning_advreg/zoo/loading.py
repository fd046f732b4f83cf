"""Networks of the zoo, from the files that come along."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_advreg.files.refused import RefusedFile
from lightning_advreg.zoo import cards

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_model(name: str, *, device: str | torch.device = "cpu") -> nn.Module:
    """Load a trained network, from the package itself.

    The SHA-256 of the weights is compared with that on the card before anything of them is read. The caller's random
    generators are left alone.

    Args:
        name: One of :func:`~lightning_advreg.zoo.models`.
        device: Where to put the network.

    Returns:
        The network in evaluation mode: a classifier takes images ``(N, C, H, W)`` in [0, 1] and gives logits; a
        generator takes noise ``(N, latent_dim)``, and labels ``(N,)`` if it is conditional, and gives images.

    Raises:
        ValueError: If there is no such network; the message names the nearest ones.
        FileNotFoundError: If the package lacks the file of the weights.
        RefusedFile: If the weights are not those of the card.

    Example:
        >>> import torch
        >>> network = load_model("mnist_trades")
        >>> network(torch.rand(2, 1, 28, 28)).shape, network.training
        (torch.Size([2, 10]), False)
    """
    path = weights_path(name)
    import torch

    from lightning_advreg.files.weights import load_network

    # building a network draws weights that are thrown away
    with torch.random.fork_rng(devices=[]):
        return load_network(path, device=device)


def weights_path(name: str) -> Path:
    """Give the file of a network's weights, once its content is what the card says.

    Args:
        name: One of :func:`~lightning_advreg.zoo.models`.

    Raises:
        ValueError: If there is no such network; the message names the nearest ones.
        FileNotFoundError: If the package lacks the file.
        RefusedFile: If its SHA-256 is not that of the card, or the card is damaged.

    Example:
        >>> weights_path("mnist_trades").name
        'mnist_trades.safetensors'
    """
    weights = cards.model_card(name).facts["weights"]
    path = cards.FOLDER / "weights" / Path(str(weights["file"])).name
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights {path}; install lightning_advreg again.")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != weights["sha256"]:
        raise RefusedFile(
            f"{path} is damaged or not the published file: its SHA-256 is {found[:16]}..., and the card of {name} says "
            f"{str(weights['sha256'])[:16]}...; install lightning_advreg again."
        )
    return path
