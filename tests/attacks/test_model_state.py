"""An attack leaves the model as it found it, and never computes the gradient of a parameter."""

import copy

import lightning
import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM, PGD, borrowed

MODES = ["eval", "batch_stats", "train"]


def state(model):
    return (
        [module.training for module in model.modules()],
        [getattr(module, "track_running_stats", None) for module in model.modules()],
        [p.requires_grad for p in model.parameters()],
    )


def changed_buffers(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture
def mixed(net):
    """A network in training with a frozen BatchNorm, a frozen weight, and a gradient on one weight alone."""
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[6].bias.grad = torch.arange(6.0)
    return net


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fails", [False, True])
def test_flags_and_gradients_are_given_back(mixed, batch, mode, fails):
    before = state(mixed)
    calls = []

    def fail_at_the_third(module, arguments):
        calls.append(module.training)
        if fails and len(calls) == 3:
            raise RuntimeError("boom")

    mixed[6].register_forward_pre_hook(fail_at_the_third)
    if fails:
        with pytest.raises(RuntimeError, match="boom"):
            PGD(model_mode=mode, restarts=2)(mixed, *batch)
    else:
        PGD(model_mode=mode, restarts=2)(mixed, *batch)
    assert state(mixed) == before
    assert set(calls) == {mode != "eval"}
    assert torch.equal(mixed[6].bias.grad, torch.arange(6.0))
    assert all(p.grad is None for p in mixed.parameters() if p is not mixed[6].bias)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("root", ["training", "eval"])
@pytest.mark.parametrize(("mode", "updates"), [("eval", False), ("batch_stats", False), ("train", True)])
def test_batch_norm_statistics_change_in_train_mode_alone(net, batch, mode, updates, root):
    net.train(root == "training")
    before = copy.deepcopy(net.state_dict())
    PGD(model_mode=mode, steps=4)(net, *batch)
    expected = {"1.running_mean", "1.running_var", "1.num_batches_tracked"} if updates else set()
    assert changed_buffers(net, before) == expected
    assert net[1].num_batches_tracked - before["1.num_batches_tracked"] == (4 if updates else 0)


@pytest.mark.parametrize("mode", MODES)
def test_a_frozen_batch_norm_stays_frozen(mixed, batch, mode):
    before = copy.deepcopy(mixed.state_dict())
    PGD(model_mode=mode)(mixed, *batch)
    assert changed_buffers(mixed, before) == set()


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.InstanceNorm2d(3, track_running_stats=True)])
def test_batch_stats_keeps_the_statistics_of_every_norm(batch, layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(108, 6))
    before = copy.deepcopy(model.state_dict())
    PGD(model_mode="batch_stats")(model, *batch)
    assert changed_buffers(model, before) == set()
    model(batch[0])
    assert changed_buffers(model, before) >= {"0.running_mean", "0.running_var"}


def test_each_mode_sees_the_statistics_it_says(net, batch):
    x, _ = batch
    norm, given = net[1], net[0](x).detach()
    means = {}
    norm.register_forward_hook(lambda module, arguments, output: means.update(last=output.detach().mean((0, 2, 3))))
    with borrowed(net, "eval"):
        net(x)
    expected = (given.mean((0, 2, 3)) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(means["last"], expected, atol=1e-5, rtol=1e-5)
    with borrowed(net, "batch_stats"):
        net(x)
    torch.testing.assert_close(means["last"], torch.zeros(6), atol=1e-5, rtol=0)


def test_no_parameter_gradient_is_computed(net, batch):
    fired = []
    for name, parameter in net.named_parameters():
        parameter.register_hook(lambda grad, name=name: fired.append(name))
        parameter.register_post_accumulate_grad_hook(lambda parameter, name=name: fired.append(name))
    for attack in (FGSM(), PGD(restarts=2), PGD(loss="kl", model_mode="train")):
        attack(net, *batch)
        attack(lambda x: net(x), *batch)
    assert fired == []
    net(batch[0]).sum().backward()  # the hooks do work
    assert {name for name, _ in net.named_parameters()} == set(fired)


class CountingLinear(torch.autograd.Function):
    weight_gradients = 0

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        CountingLinear.weight_gradients += ctx.needs_input_grad[1]
        return grad @ weight, grad.T @ x


def test_no_layer_is_asked_for_its_weight_gradient(batch):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 108))

        def forward(self, x):
            return CountingLinear.apply(x.flatten(1), self.weight)

    model = Net()
    CountingLinear.weight_gradients = 0
    PGD(restarts=2)(model, *batch)
    assert CountingLinear.weight_gradients == 0
    model(batch[0]).sum().backward()
    assert CountingLinear.weight_gradients == 1


def test_a_graph_built_before_the_attack_survives_it(net, batch):
    x, y = batch
    loss = nn.functional.cross_entropy(net(x), y)
    expected = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)
    PGD()(net, x, y)
    loss.backward()
    for parameter, grad in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


class Module(lightning.LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)

    def predict_logits(self, x):
        return self.net(x)


@pytest.mark.parametrize("form", ["module", "method", "lightning", "lightning-method"])
def test_every_form_of_a_module_is_attacked_in_eval_mode(net, batch, form):
    module = Module(net)
    model = {
        "module": net,
        "method": net.forward,
        "lightning": module,
        "lightning-method": module.predict_logits,
    }[form]
    expected = PGD(random_start=False)(net.eval(), *batch)
    net.train()
    module.train()
    before = state(module)
    assert torch.equal(PGD(random_start=False)(model, *batch), expected)
    assert state(module) == before


def test_a_plain_function_is_used_as_it_is(net, batch):
    seen = []

    def function(x):
        seen.append((net.training, net[0].weight.requires_grad))
        return net(x)

    net.train()
    x_adv = FGSM()(function, *batch)
    assert seen == [(True, True)]
    assert 0 < (x_adv - batch[0]).abs().max() <= 8 / 255 + 1e-6
    assert all(p.grad is None for p in net.parameters())


def test_weights_cached_by_autocast_neither_hurt_the_attack_nor_training(net, batch):
    x, y = batch
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            net(x)
        x_adv = PGD(restarts=2)(net, x, y)
        nn.functional.cross_entropy(net(x_adv), y).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (net[0].weight, net[6].weight))


def test_a_model_whose_output_ignores_its_input_is_refused(net, batch):
    message = "the model's output does not depend on its input through differentiable operations"
    for model in (lambda x: net(x.detach()), lambda x: net(x).detach(), torch.no_grad()(lambda x: net(x))):
        with pytest.raises(ValueError, match=message):
            FGSM()(model, *batch)


def test_logits_must_be_one_row_per_image(net, batch):
    with pytest.raises(ValueError, match=r"logits of shape \(N, K\), for these images \(5, K\), got \(5, 6, 6, 6\)"):
        FGSM()(net[0], *batch)
    with pytest.raises(ValueError, match=r"for these images \(5, K\), got \(10, 6\)"):
        FGSM()(lambda x: net(torch.cat([x, x])), *batch)
