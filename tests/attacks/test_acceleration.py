"""A search runs on a fast copy that gives the same logits; the original stays as it is and has the last word."""

import threading
import warnings

import lightning
import pytest
import torch
from torch import nn

from lightning_advreg.attacks.acceleration import Acceleration, SearchModel, search_model
from lightning_advreg.attacks.model_state import borrowed
from lightning_advreg.attacks.winograd import WinogradConv2d
from lightning_advreg.networks import PreActResNet18, ResNet18

NOTHING = Acceleration(channels_last=False, fold_batchnorm=False, inplace_activations=False, cpu_convolutions=False)


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
    return trained(ResNet18(**{"width": 32, "activation": "softplus", **arguments}))


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


@pytest.mark.parametrize("make", [small, lambda: trained(PreActResNet18(width=32, activation="silu"))])
def test_logits_and_gradients_are_those_of_the_original(make, x):
    net = make()
    with borrowed(net):
        search = search_model(net, Acceleration(), x)
        assert not search.exact
        assert search.acceleration == Acceleration()
        expected, gradient = net(x), input_gradient(net, x)
        logits = search(x)
        assert not torch.equal(logits, expected)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
        assert (input_gradient(search, x) - gradient).norm() < 1e-4 * gradient.norm()
        assert torch.equal(search.confirm(x.requires_grad_()), expected)
        assert not search.confirm(x).requires_grad


def test_all_transformations_reach_the_copy(x):
    net = small()
    search = search_model(net, Acceleration(), x)
    layers = list(search._fast.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)
    assert sum(isinstance(layer, WinogradConv2d) for layer in layers) == 6
    strided = search._fast.stages[1][0].conv1
    assert strided.weight.is_contiguous(memory_format=torch.channels_last)
    assert not any(p.requires_grad for p in search._fast.parameters())
    assert not any(layer.training for layer in layers)


@pytest.mark.parametrize("asked", [Acceleration(), Acceleration(search_dtype="bfloat16")])
def test_the_original_is_untouched(x, asked):
    net = small()
    calls = []
    net.stages[0][0].conv1.register_forward_hook(lambda module, arguments, output: calls.append(module))

    def state():
        tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        return (
            {name: (t.data_ptr(), t.dtype, t.stride(), t.requires_grad) for name, t in tensors.items()},
            [(id(m), type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()],
        )

    before, bytes_before = state(), {name: t.clone() for name, t in net.state_dict().items()}
    search = search_model(net, asked, x)
    input_gradient(search, x)
    assert not search.exact
    assert state() == before
    assert all(torch.equal(t, bytes_before[name]) for name, t in net.state_dict().items())
    # the hook of the user works in the copy as well, on the copy's own layer
    assert calls[-1] is search._fast.stages[0][0].conv1
    assert calls[-1] is not net.stages[0][0].conv1


@pytest.mark.parametrize("asked", [None, NOTHING])
def test_without_acceleration_the_original_is_searched(x, asked):
    net = small()
    search = search_model(net, asked, x)
    assert search.exact
    assert search.acceleration is None
    assert torch.equal(search(x), net(x))


@pytest.mark.parametrize("kind", ["function", "method", "training child", "compiled", "compiled in place"])
def test_models_that_are_searched_as_they_are(x, kind):
    net = Odd()
    if kind == "training child":
        net.norm.train()
    elif kind == "compiled in place":
        net._compiled_call_impl = net._call_impl
    models = {"function": lambda x: net(x), "method": net.forward, "compiled": torch.compile(net, backend="eager")}
    search = search_model(models.get(kind, net), Acceleration(), x)
    assert search.exact
    assert search.original is models.get(kind, net) or kind == "method"


def test_a_lightning_module_attached_to_a_trainer(x):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Odd()

        def forward(self, x):
            return self.net(x)

    module = Module().eval()
    module.trainer = lightning.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    # a trainer that is copied would raise
    module.trainer.lock = threading.Lock()
    search = search_model(module, Acceleration(), x)
    assert not search.exact
    assert search._fast._trainer is None
    assert module.trainer is not None
    torch.testing.assert_close(search(x), module(x))


@pytest.mark.parametrize(
    "norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm, nn.utils.weight_norm]
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_normalised_weights(x, norm):
    net = Odd()
    net.conv = norm(net.conv)
    # as after training: the old kinds then hold a tensor that is no leaf
    net.train()(x)
    with borrowed(net):
        search = search_model(net, Acceleration(), x)
        assert not search.exact
        torch.testing.assert_close(search(x), net(x))


def test_a_module_that_cannot_be_copied_is_searched_itself(x):
    net = Odd()
    net.lock = threading.Lock()
    with pytest.warns(
        UserWarning, match="on the network itself instead of a fast copy: cannot pickle '_thread.lock'"
    ) as w:
        search = search_model(net, Acceleration(), x)
    assert len(w) == 1
    assert w[0].filename == __file__
    assert search.exact
    assert torch.equal(search(x), net(x))


def test_parameters_of_other_kinds_are_not_copied(x):
    net = Odd()
    net.conv.weight = type("Sharded", (nn.Parameter,), {})(net.conv.weight)
    with pytest.warns(UserWarning, match="its parameters are of type Sharded, which cannot be copied"):
        assert search_model(net, Acceleration(), x).exact


def test_of_a_distributed_network_the_inside_is_copied(x):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        net = nn.parallel.DistributedDataParallel(Odd()).eval()
        search = search_model(net, Acceleration(), x)
        assert isinstance(search._fast, Odd)
        assert search.original is net
        torch.testing.assert_close(search(x), search.confirm(x))
    finally:
        torch.distributed.destroy_process_group()


def is_channels_last(net):
    return not net.conv.weight.is_contiguous()


def is_folded(net):
    return isinstance(net.norm, nn.Identity)


@pytest.mark.parametrize(
    ("twist", "left_out"),
    [
        # folding undoes its own bad folds
        (lambda net, z: z.cos() if is_folded(net) else z.sin(), "none"),
        (lambda net, z: z.cos() if is_channels_last(net) and is_folded(net) else z.sin(), "fold_batchnorm"),
        (lambda net, z: z.cos() if is_channels_last(net) else z.sin(), "channels_last"),
        (lambda net, z: z.view(len(z), -1)[:, :784].view(len(z), 4, 14, 14), "channels_last"),
    ],
)
def test_what_changes_the_logits_is_left_out(x, twist, left_out):
    net = Odd(twist)
    search = search_model(net, Acceleration(), x)
    assert not search.exact
    for name in ("fold_batchnorm", "inplace_activations", "channels_last", "cpu_convolutions"):
        assert getattr(search.acceleration, name) is (left_out != name)
    torch.testing.assert_close(search(x), net(x))


def test_a_copy_that_never_agrees_is_not_used(x):
    net = Odd()
    net.original = True

    def forget(copied):
        copied.__dict__.update(net.__dict__)
        copied.original = False
        return copied

    net.twist = lambda net, z: z if net.original else z + 1
    net.__class__ = type("Forgetful", (Odd,), {"__deepcopy__": lambda self, memo: forget(Odd())})
    with pytest.warns(UserWarning, match="on the network itself instead of a fast copy: the logits of the copy differ"):
        search = search_model(net, Acceleration(), x)
    assert search.exact


def test_a_network_that_draws_random_numbers_is_searched_itself_and_draws_none_of_the_callers(x):
    net = Odd(lambda net, z: z + torch.randn_like(z))
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="the logits of the copy differ"):
        assert search_model(net, Acceleration(), x).exact
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("end", [lambda z: 1e6 * z, lambda z: z.softmax(1), lambda z: z.masked_fill(z > 0, -torch.inf)])
def test_huge_softmaxed_and_masked_logits_pass_the_check(x, end):
    net = Odd()
    search = search_model(
        trained(nn.Sequential(net, type("End", (nn.Module,), {"forward": lambda _, z: end(z)})())), Acceleration(), x
    )
    assert search.acceleration == Acceleration()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_networks_keep_their_dtype(x, dtype):
    net, x = Odd().to(dtype), x.to(dtype)
    search = search_model(net, Acceleration(search_dtype="float16"), x)
    assert search.acceleration == Acceleration(cpu_convolutions=False)
    assert next(search._fast.parameters()).dtype == dtype
    assert search(x).dtype == torch.promote_types(dtype, torch.float32)
    assert search.confirm(x).dtype == dtype


def test_wider_images_give_wider_logits(x):
    net = Odd()
    search = SearchModel(net, lambda x: net(x.float()), NOTHING)
    assert search(x.double()).dtype == torch.float64


@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 5, 8, 8)])
def test_images_of_other_dimensions(shape):
    if len(shape) == 2:
        net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    else:
        net = nn.Sequential(nn.Conv3d(3, 5, 3), nn.BatchNorm3d(5), nn.Flatten())
    x = torch.rand(shape)
    search = search_model(net.eval(), Acceleration(), x)
    assert isinstance(search._fast[1], nn.Identity)
    torch.testing.assert_close(search(x), net(x))


def test_works_under_inference_mode_and_autocast(x):
    net, rounded = small(), []
    net.register_forward_hook(lambda module, arguments, output: rounded.append(output.dtype == torch.bfloat16))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        example = x + 0
        with borrowed(net):
            search = search_model(net, Acceleration(), example)
            assert search.acceleration == Acceleration()
            # rounding would hide what a transformation changes
            assert rounded
            assert not any(rounded)
            assert torch.isfinite(input_gradient(search, x)).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"search_dtype": "float8"}, ValueError, "search_dtype must be float32, bfloat16 or float16, got 'float8'"),
        ({"channels_last": "yes"}, TypeError, "channels_last must be true or false, got 'yes'"),
        ({"compile": 1}, TypeError, "compile must be true or false, got 1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Acceleration(**arguments)
