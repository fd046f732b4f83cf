"""AGC: against a loop over units, against timm, and in training."""

import copy

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from lightning_advreg.callbacks import AdaptiveGradientClipping, clip_adaptively_

from .foreign import At, Foreign, loader, trainer


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, groups=1)
        self.up = nn.ConvTranspose2d(4, 6, 3, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 2)


def with_gradients(network, seed=0, scale=0.02):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return network


def slowly(unit, gradient, clipping, eps):
    bound = clipping * max(unit.norm().item(), eps)
    return gradient * min(1.0, bound / gradient.norm().item())


def test_it_is_the_formula_unit_by_unit():
    torch.manual_seed(0)
    network = with_gradients(Convolutions(), scale=0.004)
    network.head.weight.data[0] = 0
    before = {name: p.grad.clone() for name, p in network.named_parameters()}
    share = clip_adaptively_(dict(network.named_parameters()), network, 0.05, 0.01)
    clipped = []
    for name, parameter in network.named_parameters():
        weight, gradient, now = parameter.detach(), before[name], parameter.grad
        if name == "up.weight":
            # the transposed kernel of each group has its outputs along the second dimension
            weight, gradient, now = (t.transpose(0, 1) for t in (weight, gradient, now))
        if parameter.dim() == 1:
            weight, gradient, now = (t[None] for t in (weight, gradient, now))
        for w, g, result in zip(weight, gradient, now, strict=True):
            expected = slowly(w, g, 0.05, 0.01)
            torch.testing.assert_close(result, expected, atol=1e-7, rtol=1e-5)
            clipped.append(not expected.equal(g))
    assert 0.1 < share.item() < 0.9
    assert share.item() == pytest.approx(sum(clipped) / len(clipped))


def test_it_agrees_with_timm():
    agc = pytest.importorskip("timm.utils.agc")
    torch.manual_seed(0)
    ours = with_gradients(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4)))
    theirs = with_gradients(copy.deepcopy(ours))
    agc.adaptive_clip_grad(theirs.parameters(), clip_factor=0.03, eps=1e-3)
    clip_adaptively_(dict(ours.named_parameters()), ours, 0.03, 1e-3)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-8, rtol=1e-5)


def test_gradients_of_zero_and_of_none_stay():
    layer = nn.Linear(3, 2)
    layer.weight.grad = torch.zeros(2, 3)
    assert clip_adaptively_(dict(layer.named_parameters()), layer).item() == 0
    assert layer.weight.grad.eq(0).all() and layer.bias.grad is None
    assert clip_adaptively_({"bias": layer.bias}, layer) is None


def names(callback, module, optimizer=None):
    optimizer = torch.optim.SGD(module.parameters(), lr=1) if optimizer is None else optimizer
    return list(callback.clipped_by(module, optimizer))


def test_what_is_left_alone():
    module = Foreign()
    everything = [name for name, _ in module.named_parameters()]
    assert names(AdaptiveGradientClipping(exclude_last=False), module) == everything
    assert names(AdaptiveGradientClipping(), module) == everything[:4]
    assert names(AdaptiveGradientClipping(exclude=["*.bias", "network.1.*"]), module) == ["network.0.weight"]
    # the last layer of what the optimizer has
    first = torch.optim.SGD(module.network[0].parameters(), lr=1)
    assert names(AdaptiveGradientClipping(), module, first) == []


class Steep(Foreign):
    def __init__(self):
        super().__init__()
        self.learning_rate = 1.0
        self.ratios = []

    def training_step(self, batch, batch_idx):
        return 1000 * super().training_step(batch, batch_idx)


def scaled():
    # gradients of a scaled loss, which are unscaled before a step
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=0.25))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", scaled])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_no_unit_moves_further_than_its_share_in_training(tmp_path, precision, accumulated):
    module, weights, moved = Steep(), [], []

    def note(trainer, module):
        weights.append(module.network[0].weight.detach().clone())

    run = trainer(
        tmp_path,
        AdaptiveGradientClipping(0.05),
        At("on_train_batch_start", note),
        At("on_train_batch_end", note),
        **({"precision": precision} if isinstance(precision, str) else {"plugins": [precision()]}),
        accumulate_grad_batches=accumulated,
        limit_val_batches=0,
    )
    run.fit(module, loader(16))
    for before, after in zip(weights[::2], weights[1::2], strict=True):
        bound = 0.05 * before.flatten(1).norm(dim=1).clamp(min=1e-3)
        moved.append(((after - before).flatten(1).norm(dim=1) / bound).max().item())
    steps = [ratio for ratio in moved if ratio > 0]
    # in half precision the loss may be so small that nothing moves
    assert steps and all(ratio == pytest.approx(1, abs=1e-3) for ratio in steps)
    assert 0 <= run.callback_metrics["train/agc/clipped"].item() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clipping": 0}, r"^clipping must be positive, got 0; at 0 no weight would move any more"),
        ({"eps": -1}, r"^eps must be positive, got -1"),
        ({"exclude": ""}, r"^exclude must name something"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveGradientClipping(**arguments)


def test_a_name_that_matches_nothing(tmp_path):
    run = trainer(tmp_path, AdaptiveGradientClipping(exclude="netwrk.0.*"))
    message = r"^exclude: 'netwrk.0.\*' matches no parameter of Foreign; the nearest names are 'network.0.bias'"
    with pytest.raises(ValueError, match=message):
        run.fit(Foreign(), loader(4))
