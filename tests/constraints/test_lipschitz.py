"""The bound of a network is above what it does, and no higher than its layers make it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_advreg.constraints import LipschitzReport, SpectralProjection, lipschitz_bound
from lightning_advreg.networks import MNISTConvNet, PreActResNet18, ResNet18

from .layers import explicit_matrix, randomised


class Apply(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def batch_norm():
    layer = randomised(nn.BatchNorm2d(3))
    with torch.no_grad():
        layer.running_var.copy_(torch.tensor([0.5, 2.0, 3.0]))
    return layer


SCALE = torch.tensor([0.5, -3.0, 1.0]).double().view(3, 1, 1)
# linear but for a constant: layer, shape of its images, and by how much the bound may exceed the norm
LINEAR = {
    "linear": (lambda: nn.Linear(7, 5), (7,), 1.0),
    "linear of a sequence": (lambda: nn.Linear(7, 5), (4, 7), 1.0),
    "conv": (lambda: nn.Conv2d(3, 4, 3, padding=1), (3, 9, 9), 1.1),
    "conv strided": (lambda: nn.Conv2d(3, 4, 3, stride=2), (3, 9, 9), 1.2),
    "conv grouped, dilated": (lambda: nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding="same"), (4, 9, 9), 1.3),
    "conv 1d": (lambda: nn.Conv1d(3, 4, 5, stride=3, padding=2), (3, 17), 1.2),
    "conv 3d": (lambda: nn.Conv3d(1, 2, 2), (1, 5, 5, 5), 1.4),
    "transposed": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1), (3, 5, 5), 1.3),
    "transposed, grouped": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=2, groups=2), (4, 9), 1.2),
    "batch norm": (batch_norm, (3, 4, 4), 1.0),
    "average pooling": (lambda: nn.AvgPool2d(2), (2, 6, 6), 1.0),
    "average pooling, overlapping": (lambda: nn.AvgPool2d(3, stride=1), (1, 9, 9), 1.2),
    "average pooling, padded": (lambda: nn.AvgPool1d(3, padding=1, count_include_pad=False), (2, 7), 2.0),
    "average pooling, cut": (lambda: nn.AvgPool1d(3, ceil_mode=True), (2, 7), 1.8),
    "average pooling, 3d": (lambda: nn.AvgPool3d(2), (1, 4, 4, 4), 1.0),
    "adaptive, even": (lambda: nn.AdaptiveAvgPool2d(2), (2, 6, 6), 1.0),
    "adaptive, uneven": (lambda: nn.AdaptiveAvgPool2d((3, None)), (2, 7, 5), 1.2),
    "adaptive, larger": (lambda: nn.AdaptiveAvgPool2d(7), (1, 1, 2), 1.1),
    "flatten": (nn.Flatten, (2, 3, 3), 1.0),
    "mean": (lambda: Apply(lambda x: x.mean((2, 3))), (2, 4, 5), 1.0),
    "mean of all": (lambda: Apply(lambda x: x.mean(1).mean(-1, keepdim=True)), (4, 5), 1.0),
    "sum": (lambda: Apply(lambda x: x.sum(dim=2)), (2, 4), 1.0),
    "pad": (lambda: Apply(lambda x: F.pad(x, (1, 2))), (2, 4), 1.0),
    "part": (lambda: Apply(lambda x: x[:, 1:, None, ..., 0]), (3, 4), 1.0),
    "negative": (lambda: Apply(lambda x: 1 - (-x).permute(0, 2, 1)), (2, 4), 1.0),
    "scaled": (lambda: Apply(lambda x: (x * SCALE + 1) / 0.25), (3, 2, 2), 1.0),
    "divided": (lambda: Apply(lambda x: (x - 0.5) / SCALE), (3, 2, 2), 1.0),
    "residual": (lambda: Apply(lambda x: x + 2 * x), (3, 2), 1.0),
    "residual in place": (lambda: Apply(lambda x: x.clone().add_(x, alpha=3)), (3, 2), 1.5),
    "side by side": (lambda: Apply(lambda x: torch.cat([x, 2 * x], dim=1)), (3, 2), 1.0),
    "dropout": (lambda: nn.Dropout(0.5), (3, 2), 1.0),
}


@pytest.mark.parametrize(("make", "shape", "slack"), LINEAR.values(), ids=LINEAR)
def test_the_bound_of_a_linear_map_is_its_norm_or_a_little_more(make, shape, slack):
    layer = make()
    if not isinstance(layer, nn.BatchNorm2d):
        randomised(layer)
    layer = layer.double().eval()
    constant = layer(torch.zeros(1, *shape).double())
    matrix = explicit_matrix(lambda x: layer(x) - constant, shape).detach()
    norm = torch.linalg.matrix_norm(matrix, 2).item()
    bound = lipschitz_bound(layer, torch.zeros(1, *shape).double()).item()
    assert norm * (1 - 1e-6) <= bound <= norm * slack * (1 + 1e-6)


ACTIVATIONS = {
    "relu": nn.ReLU(), "relu in place": nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)), "relu6": nn.ReLU6(),
    "leaky": nn.LeakyReLU(0.2), "steep": nn.LeakyReLU(3.0), "elu": nn.ELU(2.0), "softplus": nn.Softplus(beta=3),
    "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "silu": nn.SiLU(), "gelu": nn.GELU(), "gelu-tanh": nn.GELU("tanh"),
    "hardtanh": nn.Hardtanh(), "clamp": Apply(lambda x: x.clamp(0, 1)), "abs": Apply(torch.abs),
}  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_the_bound_of_an_activation_is_its_steepest_slope(activation):
    x = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    y = copy.deepcopy(activation)(x.clone())
    steepest = ((y[1:] - y[:-1]) / (x[1] - x[0])).abs().max().item()
    bound = lipschitz_bound(activation, torch.zeros(1, 3)).item()
    assert steepest - 1e-6 <= bound <= 1.01 * steepest


def test_the_bound_of_softmax_is_half():
    logits = torch.zeros(1, 4).double()
    assert lipschitz_bound(nn.Softmax(1), logits) == 0.5
    torch.manual_seed(0)
    largest = 0.0
    for scale in (0.5, 2.0, 6.0):
        for z in scale * torch.randn(50, 2).double():
            p = torch.softmax(z, 0)
            largest = max(largest, torch.linalg.matrix_norm(torch.diag(p) - torch.outer(p, p), 2).item())
    assert 0.49 < largest <= 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.MaxPool2d(2),
        lambda: nn.MaxPool2d(3, stride=2, padding=1),
        lambda: nn.MaxPool2d(3, stride=2, dilation=2),
        lambda: nn.Sequential(nn.Flatten(2), nn.MaxPool1d(4, stride=3)),
    ],
)
def test_max_pooling_counts_the_windows_that_share_a_pixel(make):
    pooling, shape = make(), (1, 13, 13)
    bound = lipschitz_bound(pooling, torch.zeros(1, *shape)).item()
    # a pixel above all others is what all its windows give
    largest = 0.0
    for pixel in torch.eye(13 * 13).view(-1, 1, *shape):
        largest = max(largest, (pooling(pixel) - pooling(torch.zeros(1, *shape))).norm().item())
    assert bound == pytest.approx(largest)


def test_the_bounds_of_a_chain_multiply():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.Sigmoid())
    expected = torch.linalg.svdvals(net[0].weight)[0] * torch.linalg.svdvals(net[2].weight)[0] / 4
    assert lipschitz_bound(net, torch.zeros(1, 4)) == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: MNISTConvNet(image_size=8, width=4, hidden=8, norm="batch", dropout=0.3), (1, 8, 8)),
        (lambda: ResNet18(width=4), (3, 16, 16)),
        (lambda: PreActResNet18(width=4), (3, 16, 16)),
    ],
)
def test_no_network_changes_faster_than_its_bound(make, shape):
    torch.manual_seed(0)
    net = make().train()
    for _ in range(3):
        net(torch.rand(16, *shape))  # statistics that are no identity
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    bound = lipschitz_bound(net, torch.zeros(2, *shape)).item()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    net.eval()
    x = torch.rand(1, *shape)
    jacobian = torch.autograd.functional.jacobian(lambda images: net(images)[0], x).flatten(1)
    assert 0 < torch.linalg.matrix_norm(jacobian, 2).item() <= bound < float("inf")


def test_spectral_projection_of_convolutions_keeps_the_bound_of_a_plain_network():
    layers = [nn.Conv2d(4, 4, 3, padding=1) if index % 2 == 0 else nn.ReLU() for index in range(6)]
    net = randomised(nn.Sequential(*layers))
    before = lipschitz_bound(net, torch.zeros(1, 4, 8, 8))
    SpectralProjection(0.8, operator="convolution", map_size=16).project_(net)
    assert before > 100
    assert lipschitz_bound(net, torch.zeros(1, 4, 8, 8)) == pytest.approx(0.8**3, rel=0.1)


UNBOUNDED = {
    "layer norm": (lambda: nn.LayerNorm(4), r"layer_norm is an operation without a known bound"),
    "group norm": (lambda: nn.GroupNorm(1, 3), r"group_norm is an operation without a known bound"),
    "instance norm": (lambda: nn.InstanceNorm2d(3), r"instance_norm is an operation without a known bound"),
    "batch norm": (lambda: nn.BatchNorm2d(3, track_running_stats=False), r"statistics of a batch has no bound"),
    "product": (lambda: Apply(lambda x: x * x.sigmoid()), r"of two features, as in attention or gates, has no bound"),
    "unknown": (lambda: Apply(lambda x: x.cumsum(1)), r"cumsum is an operation without a known bound"),
    "weights of features": (lambda: Apply(lambda x: F.linear(x, x[0, 0])), r"with features for weights, has no bound"),
    "parts": (lambda: Apply(lambda x: torch.stack(x.chunk(2, 2))), r"chunk is an operation without a known bound"),
    "repeated": (lambda: Apply(lambda x: x[:, [0, 0, 0]]), r"may repeat features"),
    "spread": (lambda: Apply(lambda x: x[:, :1] - SCALE), r"sub repeats features"),
    "spread sum": (lambda: Apply(lambda x: x + x[:, :1]), r"add of features of different shapes"),
    "written": (lambda: Apply(written), r"__setitem__ is an operation without a known bound"),
    "padding": (lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), r"padding by 'reflect'"),
    "random": (lambda: Apply(lambda x: F.dropout(x, 0.5)), r"dropout in training is random and has no bound"),
    "divisor": (lambda: nn.AvgPool2d(2, divisor_override=1), r"divisor_override is an operation without"),
    "rounded": (lambda: Apply(lambda x: torch.div(x, 2, rounding_mode="floor")), r"rounding_mode jumps"),
    "constant": (lambda: Apply(lambda x: torch.zeros(1, 2)), r"output of Apply does not depend on the images"),
}


def written(x):
    output = torch.zeros(3, 4, 4)
    output[0] = x[0, 0]
    return output


@pytest.mark.parametrize(("make", "message"), UNBOUNDED.values(), ids=UNBOUNDED)
def test_what_has_no_bound_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        lipschitz_bound(make(), torch.zeros(1, 3, 4, 4))


def test_a_report_measures_and_names_a_network_without_a_bound():
    net = randomised(nn.Sequential(nn.Flatten(), nn.Linear(8, 3)))
    report = LipschitzReport(image_shape=[2, 2, 2])
    report.check(net)
    assert report.project_(net) is None
    assert report.measure(net)["bound"] == pytest.approx(torch.linalg.svdvals(net[1].weight)[0].item())
    net.append(nn.LayerNorm(3))
    with pytest.raises(ValueError, match=r"critic has no Lipschitz bound: layer_norm is an operation without"):
        report.check(net, "critic")


@pytest.mark.parametrize("shape", [(), (3, 0, 4), (3.0, 4, 4), 3, (True, 4, 4)])
def test_bad_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"image_shape must be integers of at least 1, such as \(3, 32, 32\), got"):
        LipschitzReport(image_shape=shape)


def test_half_precision_and_autocast_change_the_bound_by_rounding_alone():
    net = randomised(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 3)))
    exact = lipschitz_bound(net, torch.zeros(1, 2, 4, 4)).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert lipschitz_bound(net, torch.zeros(1, 2, 4, 4)) == pytest.approx(exact, rel=1e-6)
    half = LipschitzReport(image_shape=(2, 4, 4)).measure(net.to(torch.bfloat16))["bound"]
    assert half == pytest.approx(exact, rel=0.02)
