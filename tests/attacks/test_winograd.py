"""The Winograd convolution is the convolution."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_advreg.attacks.winograd import WinogradConv2d


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("shape", "padding"), [((9, 32, 8, 8), 1), ((8, 40, 9, 6), 0), ((5, 32, 5, 13), 2), ((300, 32, 4, 4), (0, 1))]
)
def test_winograd_is_the_convolution_with_its_gradient(shape, padding, memory_format, bias):
    conv = nn.Conv2d(shape[1], 48, 3, padding=padding, bias=bias).requires_grad_(False)
    x = torch.randn(shape).to(memory_format=memory_format).requires_grad_()
    winograd = WinogradConv2d(conv)
    out = winograd(x)
    assert out.grad_fn.name() == "_WinogradBackward"
    assert out.is_contiguous(memory_format=memory_format)
    exact_x = x.detach().double().requires_grad_()
    exact = F.conv2d(exact_x, conv.weight.double(), None if conv.bias is None else conv.bias.double(), padding=padding)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=3e-5)
    weights = torch.randn_like(out)
    (grad,) = torch.autograd.grad((out * weights).sum(), x)
    (exact_grad,) = torch.autograd.grad((exact * weights.double()).sum(), exact_x)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=0, atol=3e-5)


@pytest.mark.parametrize("case", ["few tiles", "bfloat16", "autocast"])
def test_winograd_gives_way_to_the_convolution(case):
    conv = nn.Conv2d(32, 32, 3, padding=1).requires_grad_(False)
    x = torch.randn(1 if case == "few tiles" else 8, 32, 8, 8)
    if case == "bfloat16":
        conv, x = conv.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", enabled=case == "autocast"):
        assert torch.equal(WinogradConv2d(conv)(x), conv(x))
