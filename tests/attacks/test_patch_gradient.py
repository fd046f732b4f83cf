"""The convolution of few channels is the convolution, with its gradient."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks.patch_gradient import PatchGradientConv2d, use_patch_gradients


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("channels", "size", "arguments"),
    [
        (1, (28, 28), {"kernel_size": 4, "stride": 2, "padding": 1}),
        (3, (9, 12), {"kernel_size": 3, "padding": 1, "bias": False}),
        (4, (11, 8), {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 2), "dilation": (2, 1)}),
    ],
)
def test_it_is_the_convolution_with_its_gradient(channels, size, arguments, memory_format):
    conv = nn.Conv2d(channels, 6, **arguments).requires_grad_(False)
    x = torch.randn(5, channels, *size).to(memory_format=memory_format).requires_grad_()
    out, expected = PatchGradientConv2d(conv)(x), conv(x)
    assert torch.equal(out, expected) and out.grad_fn.name() == "_PatchGradientBackward"
    weights = torch.randn_like(out)
    (grad,), (exact,) = (torch.autograd.grad((z * weights).sum(), x) for z in (out, expected))
    torch.testing.assert_close(grad, exact, atol=1e-5, rtol=1e-5)


def test_other_dtypes_and_autocast_take_the_plain_way():
    conv = nn.Conv2d(1, 6, 3).requires_grad_(False)
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(PatchGradientConv2d(conv)(x), conv(x))
    assert PatchGradientConv2d(conv.double())(x.double()).grad_fn.name() == "ConvolutionBackward0"


def test_only_convolutions_of_few_channels_are_replaced():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(2, 8, 3, padding="same"),
        nn.Conv2d(2, 8, 3, padding_mode="circular"),
        nn.Conv2d(2, 8, 3).double(),
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 8, 3)),
    )
    use_patch_gradients(network)
    assert [type(layer).__name__ for layer in network] == ["PatchGradientConv2d"] + ["Conv2d"] * 5 + [
        "ParametrizedConv2d"
    ]
