import copy
import math
import pickle

import pytest
import timm
import torch
import torchvision
from torch import nn

from lightning_advreg.attacks import live_copy
from lightning_advreg.networks import PreActResNet18, ResNet18
from lightning_advreg.networks.attached import attach, detach
from lightning_advreg.networks.branches import residual_branches
from lightning_advreg.networks.frozen_norm import FrozenBatchNorm
from lightning_advreg.networks.norm_surgery import replace_norms_
from lightning_advreg.networks.unnormalized import RELU_GAIN, NoNorm, StandardizedConv2d, standardized


def plain(channels=8):
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8, 2),
    )


def small_timm():
    return timm.create_model("resnet10t", num_classes=10, in_chans=1)


@pytest.mark.parametrize(
    ("kind", "over"), [("batch", (0, 2, 3)), ("layer", (1, 2, 3)), ("instance", (2, 3)), ("group", None)]
)
def test_each_kind_normalises_over_its_axes(kind, over):
    net = plain()
    replace_norms_(net, "none")
    replace_norms_(net, kind)
    y = net[1](3 + 2 * torch.randn(6, 8, 9, 9))
    y, over = (y.unflatten(1, (4, 2)), (2, 3, 4)) if over is None else (y, over)
    torch.testing.assert_close(y.mean(over), torch.zeros_like(y.mean(over)), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.var(over, correction=0), torch.ones_like(y.mean(over)), atol=1e-2, rtol=0)


@pytest.mark.parametrize("kind", ["group", "layer", "instance", "none", "frozen"])
def test_scale_shift_epsilon_and_mode_stay(kind):
    net = plain().eval()
    weight, bias = net[1].weight, net[1].bias
    assert replace_norms_(net, kind) == ("1",)
    assert net[1].weight is weight and net[1].bias is bias
    assert kind == "none" or net[1].eps == 1e-3
    assert not net[1].training
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in plain().named_parameters()]


@pytest.mark.parametrize("kind", ["batch", "group", "layer", "instance", "none", "frozen"])
def test_twice_is_as_once(kind):
    net = small_timm()
    replace_norms_(net, kind)
    modules, state = list(net.modules()), copy.deepcopy(net.state_dict())
    assert replace_norms_(net, kind) == ()
    assert all(a is b for a, b in zip(modules, net.modules(), strict=True))
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_there_and_back_again():
    net = small_timm()
    names, types = list(net.state_dict()), [type(m) for m in net.modules()]
    x = torch.rand(4, 1, 32, 32)
    expected = net(x)
    for kind in ("none", "group", "none", "batch"):
        replace_norms_(net, kind)
    assert sorted(net.state_dict()) == sorted(names) and [type(m) for m in net.modules()] == types
    # branches of timm's networks begin at zero anyway
    torch.testing.assert_close(net(x), expected)


def test_frozen_gives_what_eval_mode_gives_and_does_not_move():
    net = plain()
    net(torch.rand(4, 3, 3, 3))
    x = torch.rand(4, 3, 3, 3)
    expected = net.eval()(x)
    replace_norms_(net, "frozen", train_affine=False)
    net.train()
    torch.testing.assert_close(net(x), expected)
    torch.testing.assert_close(net(x), expected)
    assert isinstance(net[1], FrozenBatchNorm) and not net[1].training
    assert not net[1].weight.requires_grad and net[0].weight.requires_grad
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(net)[1], FrozenBatchNorm)
    mean = net[1].running_mean
    replace_norms_(net, "batch")
    assert net[1].weight.requires_grad and net[1].training and net[1].running_mean is mean


def test_affine_can_be_frozen_and_thawed_alone():
    net = plain()
    replace_norms_(net, "frozen")
    assert net[1].weight.requires_grad
    assert replace_norms_(net, "frozen", train_affine=False) == ("1",)
    assert not net[1].weight.requires_grad


def test_standardised_kernels_against_the_formula():
    weight = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    rows = weight.flatten(1)
    centred = rows - rows.mean(1, keepdim=True)
    expected = math.sqrt(2 / (1 - 1 / math.pi)) * centred / centred.norm(dim=1, keepdim=True)
    torch.testing.assert_close(standardized(weight).flatten(1), expected, atol=1e-5, rtol=0)
    x = torch.randn(20_000, 75, dtype=torch.float64).relu()
    assert (x @ standardized(weight).flatten(1).T).var(0).mean().item() == pytest.approx(1, abs=0.05)
    assert pytest.approx(1.71286, abs=1e-4) == RELU_GAIN


def test_none_standardises_beside_the_norm_only():
    net = nn.Sequential(plain(), nn.Conv2d(1, 1, 3))
    replace_norms_(net, "none")
    assert type(net[0][0]) is StandardizedConv2d and type(net[1]) is nn.Conv2d
    x = torch.rand(2, 3, 3, 3)
    expected = nn.functional.conv2d(x, standardized(net[0][0].weight))
    torch.testing.assert_close(net[0][1](net[0][0](x)), expected)
    assert isinstance(pickle.loads(pickle.dumps(net))[0][1], NoNorm)


def test_two_kinds_in_one_block_keep_to_themselves():
    net = torchvision.models.resnet18(num_classes=2)
    replace_norms_(net, "none", "layer1.*")
    replace_norms_(net, "group", ["layer4.*", "bn1"])
    assert isinstance(net.layer1[0].bn1, NoNorm) and type(net.layer1[0].conv1) is StandardizedConv2d
    assert isinstance(net.layer4[0].bn1, nn.GroupNorm) and type(net.layer4[0].conv1) is nn.Conv2d
    assert isinstance(net.layer2[0].bn1, nn.BatchNorm2d)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchvision.models.resnet18(num_classes=10),
        lambda: timm.create_model("resnetv2_18", num_classes=10),
        lambda: ResNet18(width=8),
        lambda: PreActResNet18(width=8),
    ],
    ids=["post-activation", "timm pre-activation", "ours", "ours pre-activation"],
)
def test_without_normalisation_branches_begin_at_zero_and_gradients_flow(make):
    net = make()
    branches = residual_branches(net)
    assert len(branches) == 8
    replace_norms_(net, "none")
    given = {}
    for branch in branches:
        layer = net.get_submodule(branch.end)
        layer.register_forward_hook(
            lambda _, __, y, name=branch.end: given.update({name: y.detach().abs().max().item()})
        )
    logits = net(torch.rand(2, 3, 32, 32))
    assert len(given) == 8 and set(given.values()) == {0.0}
    assert logits.isfinite().all() and logits.std() > 1e-3
    logits.logsumexp(1).sum().backward()
    gains = [p for name, p in net.named_parameters() if not p.any() and p.grad is not None]
    # what is zero at the start can leave it
    assert sum(bool(p.grad.any()) for p in gains) >= 8


def test_activations_within_a_norm_survive():
    net = timm.create_model("efficientnet_lite0", num_classes=2)
    act, names = net.bn1.act, [name for name, _ in net.named_parameters()]
    replace_norms_(net, "group")
    assert isinstance(net.bn1, nn.GroupNorm) and net.bn1.act is act
    assert net.bn1(torch.randn(2, 32, 4, 4)).min() == 0
    replace_norms_(net, "instance")
    assert net.bn1.act is act and net.bn1(torch.randn(2, 32, 4, 4)).min() == 0
    assert [name for name, _ in net.named_parameters()] == names


def test_hooks_and_attached_layers_are_handed_over():
    net, seen = plain(), []
    net[1].register_forward_hook(lambda *_: seen.append(1))
    attach(net[1], "bound", nn.Hardtanh(-0.1, 0.1))
    replace_norms_(net, "group")
    assert net[1](torch.randn(2, 8, 4, 4)).abs().max() <= 0.1 and seen == [1]
    assert detach(net[1], "bound") and net[1](torch.randn(2, 8, 4, 4)).abs().max() > 0.1


def test_a_shared_layer_is_replaced_everywhere():
    norm = nn.BatchNorm2d(4)
    net = nn.ModuleDict({"a": nn.Sequential(norm), "b": nn.Sequential(norm)})
    replace_norms_(net, "group")
    assert net["a"][0] is net["b"][0] and isinstance(net["a"][0], nn.GroupNorm)


def test_one_dimensional_features():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    replace_norms_(net, "layer")
    x = torch.randn(5, 4)
    torch.testing.assert_close(net(x), nn.functional.layer_norm(net[0](x), (8,)))
    replace_norms_(net, "batch")
    assert type(net[1]) is nn.BatchNorm1d
    with pytest.raises(ValueError, match=r"layer '1' normalises features without positions.*kind='layer'"):
        replace_norms_(net, "instance")


def test_dtype_follows_the_layer():
    net = plain().double()
    replace_norms_(net, "none")
    replace_norms_(net, "batch")
    assert net[1].running_mean.dtype == torch.float64 and net[1].num_batches_tracked.dtype == torch.int64


def test_norms_without_scale_stay_without():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(inplace=True))
    for kind in ("group", "none", "instance", "batch"):
        replace_norms_(net, kind)
        assert net[1].weight is None and net(torch.rand(2, 1, 5, 5)).isfinite().all()


def test_the_copy_for_attacks_follows():
    net = ResNet18(in_channels=1, width=4).eval()
    x = torch.rand(2, 1, 16, 16)
    for kind in ("group", "none", "frozen"):
        if kind == "frozen":
            replace_norms_(net, "batch")
        replace_norms_(net, kind)
        fast = live_copy(net, x)
        assert fast is not None
        with torch.no_grad():
            net.classifier.weight.mul_(2)
            torch.testing.assert_close(fast(x), net(x), atol=1e-4, rtol=1e-3)


def test_a_changed_network_compiles():
    net = plain()
    replace_norms_(net, "none")
    attach(net[1], "bound", nn.Hardtanh())
    x = torch.rand(2, 3, 3, 3)
    torch.testing.assert_close(torch.compile(net, backend="eager")(x), net(x))


def test_errors_name_the_layer_and_the_way_out():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    with pytest.raises(ValueError, match=r"kind must be one of batch, group, .*; got 'bn'"):
        replace_norms_(plain(), "bn")
    with pytest.raises(ValueError, match="Linear has no BatchNorm, GroupNorm or InstanceNorm to replace; build"):
        replace_norms_(nn.Linear(2, 2), "group")
    with pytest.raises(ValueError, match=r"layers='body\.\*' matches no normalisation layer.*nearest names are '1'"):
        replace_norms_(plain(), "group", "body.*")
    with pytest.raises(ValueError, match=r"layer '0' is a Own, which does something of its own.*layers="):
        replace_norms_(nn.Sequential(Own(4)), "group")
    with pytest.raises(ValueError, match=r"keeps the statistics of BatchNorm, and layer '0' is a GroupNorm"):
        replace_norms_(nn.Sequential(nn.GroupNorm(2, 4)), "frozen")
    with pytest.raises(ValueError, match="layer '0' does not know its channels yet"):
        replace_norms_(nn.Sequential(nn.LazyBatchNorm2d()), "group")
    odd = nn.Sequential(timm.layers.Conv2dSame(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.warns(UserWarning, match="weights of 0 should be standardised, but these layers are no plain"):
        replace_norms_(odd, "none")


def test_an_error_changes_nothing():
    net = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
    with pytest.raises(ValueError, match="layer '1'"):
        replace_norms_(net, "frozen")
    assert isinstance(net[0], nn.BatchNorm2d)
