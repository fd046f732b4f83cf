"""Searching in lower precision, and with a compiled copy."""

import warnings

import pytest
import torch
from torch import nn

from lightning_advreg.attacks.acceleration import Acceleration, search_model
from lightning_advreg.attacks.model_state import borrowed
from lightning_advreg.networks import ResNet18


@pytest.fixture(autouse=True)
def _no_warning_unless_expected():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The search runs")
        yield


@pytest.fixture
def x():
    return torch.rand(12, 3, 16, 16)


def trained(module):
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.running_mean.normal_(0, 0.5)
            child.running_var.uniform_(0.5, 2)
            nn.init.uniform_(child.weight, 0.5, 1.5)
    return module.eval()


def small(**arguments):
    """A small network, with Winograd in its last two stages; a smooth activation lets gradients be compared."""
    return trained(ResNet18(width=32, activation="softplus", **arguments))


def input_gradient(model, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)[0]


class Odd(nn.Module):
    """A convolution, a BatchNorm and a linear layer, with a twist that a test gives."""

    def __init__(self, twist=lambda net, z: z):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.twist = twist
        trained(self)

    def forward(self, x):
        return self.linear(self.twist(self, self.norm(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision(x, dtype):
    net = small()
    with borrowed(net):
        search = search_model(net, Acceleration(search_dtype=dtype), x)
        assert search.acceleration.search_dtype == dtype
        assert {p.dtype for p in search._fast.parameters()} == {getattr(torch, dtype)}
        logits, expected = search(x), net(x)
        assert logits.dtype == torch.float32
        assert not torch.equal(logits, expected)
        assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
        gradient = input_gradient(search, x)
        assert gradient.dtype == torch.float32
        assert torch.cosine_similarity(gradient.flatten(), input_gradient(net, x).flatten(), dim=0) > 0.98
        assert search.confirm(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("twist", "reason"),
    [
        (lambda net, z: z * 1e5, "its logits are not finite"),
        (lambda net, z: z @ torch.ones(14, 14), "Half"),
    ],
)
def test_a_precision_that_fails_is_not_used(x, twist, reason):
    net = Odd(twist)
    with pytest.warns(UserWarning, match=f"on a copy in float32 instead of float16: .*{reason}") as w:
        search = search_model(net, Acceleration(search_dtype="float16"), x)
    assert len(w) == 1
    assert search.acceleration.search_dtype == "float32"
    torch.testing.assert_close(search(x), net(x))


def test_a_compiler_that_fails_leaves_the_copy_uncompiled(x, monkeypatch):
    def compile_nothing(module):
        def run(x):
            raise RuntimeError("no C++ compiler\nmore")

        return run

    monkeypatch.setattr(torch, "compile", compile_nothing)
    net = Odd()
    with pytest.warns(UserWarning, match=r"on a copy that is not compiled: no C\+\+ compiler\.$") as w:
        search = search_model(net, Acceleration(compile=True), x)
    assert len(w) == 1
    assert not search.exact
    assert not search.acceleration.compile
    torch.testing.assert_close(search(x), net(x))


def test_compiled_search_does_not_compile_each_batch_size(x):
    programs = []

    def backend(graph, inputs):
        programs.append(graph)
        return graph

    compile_for_real = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", lambda module: compile_for_real(module, backend=backend))
        net = Odd()
        search = search_model(net, Acceleration(compile=True), x)
    assert search.acceleration.compile
    with borrowed(net):
        for size in (12, 7, 3, 1):
            with torch.no_grad():
                torch.testing.assert_close(search(x[:size]), net(x[:size]))
            torch.testing.assert_close(input_gradient(search, x[:size]), input_gradient(net, x[:size]))
    # with gradient and without, below PyTorch's threshold of 16 images
    assert len(programs) == 2


@pytest.mark.slow
def test_compiled_for_real(x):
    net = Odd()
    with borrowed(net):
        search = search_model(net, Acceleration(compile=True), x)
        assert search.acceleration == Acceleration(compile=True, cpu_convolutions=False)
        torch.testing.assert_close(search(x), net(x))
        torch.testing.assert_close(input_gradient(search, x[:1]), input_gradient(net, x[:1]))
