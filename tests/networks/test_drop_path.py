"""Stochastic depth in the residual networks."""

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from lightning_advreg.networks import PreActResNet18, ResNet18, WideResNet
from lightning_advreg.networks.residual import BasicBlock, PreActBlock

BUILDS = [
    (lambda **k: ResNet18(width=4, **k), 8),
    (lambda **k: PreActResNet18(width=4, **k), 8),
    (lambda **k: WideResNet(depth=16, width=1, **k), 6),
]
each = pytest.mark.parametrize(("build", "blocks"), BUILDS)


@each
def test_the_chance_grows_with_depth(build, blocks):
    chances = [layer.p for layer in build(drop_path=0.4).modules() if isinstance(layer, StochasticDepth)]
    assert chances == pytest.approx([0.4 * (i + 1) / blocks for i in range(blocks)])


@each
def test_without_it_and_in_evaluation_nothing_changes(build, blocks):
    torch.manual_seed(0)
    plain, dropping = build(), build(drop_path=0.9)
    assert not any(isinstance(layer, StochasticDepth) for layer in plain.modules())
    dropping.load_state_dict(plain.state_dict())
    x = torch.rand(4, 3, 16, 16)
    assert dropping.eval()(x).equal(plain.eval()(x))


@pytest.mark.parametrize("kind", [BasicBlock, PreActBlock])
def test_a_dropped_branch_leaves_the_shortcut_and_a_kept_one_is_scaled(kind):
    torch.manual_seed(0)
    block = kind(4, 4, 1, "group", "relu", drop_path=0.25)
    x = torch.rand(400, 4, 5, 5)
    with torch.no_grad():
        whole = block.eval()(x)
        out = block.train()(x)
        block.drop_path = nn.Identity()
        kept = [(row == x_).all() for row, x_ in zip(out, x, strict=True)]
    dropped = torch.stack(kept)
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.06)
    if kind is PreActBlock:
        torch.testing.assert_close(out[~dropped], (x + (whole - x) / 0.75)[~dropped], atol=1e-5, rtol=1e-5)


@each
def test_bad_arguments(build, blocks):
    with pytest.raises(ValueError, match=r"^drop_path must lie in \[0, 1\), got 1.0"):
        build(drop_path=1.0)
