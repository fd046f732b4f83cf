"""Networks and penalties that several tests share."""

import torch
from torch import nn

from lightning_advreg.penalties import L1, L2, L2SP, ElasticNet, GroupLasso, Orthogonality, SpectralNormPenalty

WEIGHT_PENALTIES = {
    "l1": lambda **s: L1(0.3, **s),
    "l2": lambda **s: L2(0.3, **s),
    "elasticnet": lambda **s: ElasticNet(0.3, 0.2, **s),
    "grouplasso": lambda **s: GroupLasso(0.3, **s),
    "orthogonality": lambda **s: Orthogonality(0.3, **s),
    "spectralnormpenalty": lambda **s: SpectralNormPenalty(0.3, **s),
    "l2sp": lambda **s: L2SP(0.3, **s),
}
TAKES_BIASES = ["l1", "l2", "elasticnet", "grouplasso", "l2sp"]
MATRICES = ["0.weight", "3.weight", "5.weight"]


def normal(network, seed=0):
    torch.manual_seed(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    return network.double()


def net():
    """Weights, biases and scales of all kinds, in float64."""
    return normal(
        nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4), nn.LayerNorm(4), nn.Linear(4, 2)
        )
    )


def started(name, network, **settings):
    """A penalty that has begun, and weights that are no longer those it began with."""
    penalty = WEIGHT_PENALTIES[name](**settings)
    penalty.begin_(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.ones_like(parameter), alpha=0.25 if name == "l2sp" else 0)
    return penalty


def gradients(penalty, network):
    network.zero_grad()
    penalty(network).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
