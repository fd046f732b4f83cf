"""What a projection asks of the machine: no waiting for the device, and few operations."""

import pytest
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_advreg.constraints import (
    AdaptiveBound,
    CubicSparsity,
    MagnitudePruning,
    MaxNorm,
    NonNegative,
    Parseval,
    SpectralProjection,
    WeightClip,
)
from lightning_advreg.modules.limits import Limits
from lightning_advreg.schedules import Ramp

from .layers import randomised

# what needs a number or a size on the host
WAITING = ("_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero", "unique")


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


CONSTRAINTS = {
    "max-norm": lambda: MaxNorm(AdaptiveBound(1.0)),
    "clip": lambda: WeightClip(Ramp(epochs=2, start=1, end=0.5)),
    "non-negative": NonNegative,
    "parseval": Parseval,
    "spectral": lambda: SpectralProjection(1.0),
    "spectral of images": lambda: SpectralProjection(AdaptiveBound(1.0), operator="convolution"),
    "pruning": lambda: MagnitudePruning(CubicSparsity(end=0.5, epochs=2)),
    "pruning of units": lambda: MagnitudePruning(CubicSparsity(end=0.5, epochs=2), granularity="unit", scope="network"),
}


def operations(limits, layers, epoch):
    net = randomised(nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(layers))))
    limits.project_(net, epoch=0.0)
    with Operations() as seen:
        limits.project_(net, epoch=epoch)
    return seen.names


@pytest.mark.parametrize("make", CONSTRAINTS.values(), ids=CONSTRAINTS)
def test_no_projection_waits_for_the_device(make):
    # 0.01: within the interval of pruning; 0.5: with a look at the magnitudes
    for epoch in (0.01, 0.5):
        names = operations(Limits([make()]), 2, epoch)
        assert names
        assert not set(WAITING) & set(names)


@pytest.mark.parametrize(
    ("name", "most"), [("clip", 3), ("non-negative", 3), ("max-norm", 9), ("pruning", 12), ("parseval", 16)]
)
def test_the_operations_for_one_more_layer_are_few(name, most):
    few, many = (len(operations(Limits([CONSTRAINTS[name]()]), layers, 0.01)) for layers in (4, 12))
    assert (many - few) / 8 <= most
