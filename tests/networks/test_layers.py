import math
from typing import get_args

import pytest
import torch
from torch import nn

from lightning_advreg.networks.arguments import check_dropout, check_sizes, read_image_shape
from lightning_advreg.networks.layers import ActivationName, NormName, SkipGain, make_activation, make_norm
from lightning_advreg.networks.pixels import CIFAR10_MEAN, CIFAR10_STD, make_normalize


@pytest.mark.parametrize(("norm", "over"), [("batch", (0, 2, 3)), ("layer", (1, 2, 3)), ("instance", (2, 3))])
def test_norm_gives_zero_mean_and_unit_variance_over_its_axes(norm, over):
    x = 3 + 2 * torch.randn(6, 8, 5, 5)
    y = make_norm(norm, 8)(x)
    torch.testing.assert_close(y.mean(over), torch.zeros_like(y.mean(over)), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(over, correction=0), torch.ones_like(y.mean(over)), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (48, 16), (40, 8), (12, 4), (6, 2), (5, 1), (32, 16)])
def test_group_norm_takes_the_largest_number_of_groups_that_divides_the_channels(channels, groups):
    assert make_norm("group", channels).num_groups == groups


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance"])
def test_every_norm_learns_scale_and_shift_per_channel(norm):
    assert [p.shape for p in make_norm(norm, 8).parameters()] == [(8,), (8,)]


def test_no_norm_is_the_identity():
    x = torch.randn(2, 3, 4, 4)
    assert make_norm("none", 3)(x) is x


@pytest.mark.parametrize(
    ("activation", "at_minus_one"),
    [
        ("relu", 0.0),
        ("leaky_relu", -0.01),
        ("silu", -1 / (1 + math.e)),
        ("gelu", -0.5 * math.erfc(1 / math.sqrt(2))),
        ("softplus", math.log1p(math.exp(-1))),
        ("elu", math.exp(-1) - 1),
    ],
)
def test_activation_values(activation, at_minus_one):
    assert make_activation(activation)(torch.tensor(-1.0)).item() == pytest.approx(at_minus_one, abs=1e-6)


@pytest.mark.parametrize("activation", get_args(ActivationName))
def test_activations_leave_their_input_alone(activation):
    x = torch.tensor([-1.0, 1.0])
    make_activation(activation)(x)
    assert x.tolist() == [-1.0, 1.0]


def test_unknown_names_are_errors_that_list_the_known():
    with pytest.raises(ValueError, match="norm must be one of batch, group, layer, instance, none; got 'bn'"):
        make_norm("bn", 4)
    with pytest.raises(ValueError, match=r"activation must be one of relu, .*; got 'swish'"):
        make_activation("swish")


def test_skip_gain_starts_at_zero_and_learns():
    gain = SkipGain()
    gain(torch.full((2,), 3.0)).sum().backward()
    assert gain.gain.item() == 0 and gain.gain.grad.item() == 6


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_outside_its_range_is_an_error(dropout):
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got"):
        check_dropout(dropout=dropout)


@pytest.mark.parametrize("value", [0, -3, 2.5, True, "4"])
def test_sizes_are_positive_integers(value):
    with pytest.raises(ValueError, match="width must be an integer of at least 1, got"):
        check_sizes(num_classes=10, width=value)


@pytest.mark.parametrize("shape", [(28, 28), (1, 0, 28), (1, 1, 28, 28)])
def test_image_shape_is_three_positive_sizes(shape):
    with pytest.raises(ValueError, match=r"image_shape must be \(channels, height, width\)"):
        read_image_shape(shape)


def test_default_pixel_statistics_apply_only_to_as_many_channels():
    cifar = (CIFAR10_MEAN, CIFAR10_STD)
    normalize = make_normalize(None, None, 3, default=cifar)
    torch.testing.assert_close(normalize.mean.flatten(), torch.tensor(CIFAR10_MEAN))
    assert isinstance(make_normalize(None, None, 4, default=cifar), nn.Identity)
    assert isinstance(make_normalize(None, None, 3), nn.Identity)


def test_pixel_statistics_must_fit():
    with pytest.raises(ValueError, match=r"one value for each of the 3 channels.*got mean=\(0.5,\)"):
        make_normalize((0.5,), (0.5,), 3)
    with pytest.raises(ValueError, match="mean and std must be given together; got mean=None"):
        make_normalize(None, (0.5,), 1)


def test_norm_names_are_those_of_the_factory():
    assert all(isinstance(make_norm(norm, 4), nn.Module) for norm in get_args(NormName))
