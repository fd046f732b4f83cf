import copy
import math

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM, PGD, Attack
from lightning_advreg.attacks.worst_of import WorstOf
from lightning_advreg.objectives.trades import TRADES

from .test_pgd_at import literal_cross_entropy


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    # statistics of training, so that eval and train modes differ
    model(torch.rand(32, 1, 6, 6))
    return model.double().train()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 1, 6, 6).double(), torch.tensor([0, 1, 2, 3, 4, 0])


ATTACK = PGD(eps=0.1, step_size=0.03, steps=3, seed=0)


def literal_kl(logits, logits_adv):
    """KL of every image, summed over classes in a loop."""
    rows = []
    for z, z_adv in zip(logits, logits_adv, strict=True):
        p = z.exp() / z.exp().sum()
        q = z_adv.exp() / z_adv.exp().sum()
        rows.append(sum(p[k] * (p[k].log() - q[k].log()) for k in range(len(p))))
    return torch.stack(rows)


def literal_kl_pgd(net, x, eps=0.1, step_size=0.03):
    """The inner loop of TRADES in three steps, from the start that PGD draws."""
    flags = [module.training for module in net.modules()]
    net.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x_adv = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    clean = net(x).detach()
    for _ in range(3):
        x_adv = x_adv.detach().requires_grad_()
        literal_kl(clean, net(x_adv)).sum().backward()
        x_adv = x_adv + step_size * x_adv.grad.sign()
        x_adv = torch.maximum(torch.minimum(x_adv, x + eps), x - eps).clamp(0, 1)
    for module, flag in zip(net.modules(), flags, strict=True):
        module.training = flag
    net.zero_grad(set_to_none=True)
    return x_adv.detach()


def assert_same(ours, net, expected, reference):
    """Two losses, each of its own network, agree, and so do the gradients of the weights."""
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)
    gradients = (torch.autograd.grad(loss, list(of.parameters())) for loss, of in ((ours, net), (expected, reference)))
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other, atol=1e-9, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"beta": 2.5}, {"beta": 1, "label_smoothing": 0.3}])
def test_loss_and_gradients_equal_the_formula(net, batch, settings):
    x, y = batch
    # a copy: each pass moves the statistics that the attack sees
    reference = copy.deepcopy(net)
    x_adv = literal_kl_pgd(reference, x)
    logits = reference(x)
    expected = literal_cross_entropy(logits, y, settings.get("label_smoothing", 0.0))
    expected = expected + settings.get("beta", 6) * literal_kl(logits, reference(x_adv)).sum() / len(x)
    assert_same(TRADES(**settings)(net, x, y, ATTACK).loss, net, expected, reference)


def test_the_attack_ignores_labels_and_its_own_loss(net, batch):
    x, y = batch
    (x_adv,) = TRADES().craft(net, x, y, ATTACK)
    torch.testing.assert_close(x_adv, literal_kl_pgd(net, x))
    assert torch.equal(TRADES().craft(net, x, (y + 1) % 5, ATTACK.maximising("margin"))[0], x_adv)
    assert not torch.equal(ATTACK(net, x, y), x_adv)


def test_a_known_value():
    # logits are the pixels; with the attack's end fixed, KL of p = (1/2, 1/2) from q = softmax(1/4, 3/4)
    x, x_adv, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[0.25, 0.75]]]]), torch.tensor([0])
    q = 1 / (1 + math.exp(0.5))
    kl = 0.5 * math.log(0.5 / q) + 0.5 * math.log(0.5 / (1 - q))
    # twice the same image: a mean over classes or a sum over images would show
    loss = TRADES(beta=6).loss(nn.Flatten(), x.repeat(2, 1, 1, 1), y.repeat(2), (x_adv.repeat(2, 1, 1, 1),)).loss
    assert loss.item() == pytest.approx(math.log(2) + 6 * kl, rel=1e-6)


def test_the_gradient_flows_through_the_clean_side(batch):
    # a model whose attacked logits do not depend on the weight: all of KL's gradient comes from the clean side
    x, y = batch
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    fixed = torch.randn(6, 5, dtype=torch.float64)
    x_adv = x + 0.01

    def model(images):
        return fixed if images is x_adv else weight * x.flatten(1)[:, :5]

    loss = TRADES(beta=1).loss(model, x, y, (x_adv,)).loss
    (gradient,) = torch.autograd.grad(loss, weight)
    (clean_alone,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), weight)
    assert (gradient - clean_alone).abs() > 1e-3


def test_batch_norm_sees_the_clean_and_then_the_attacked_batch(net, batch):
    x, y = batch
    (x_adv,) = TRADES().craft(net, x, y, ATTACK)
    mean, seen = net[1].running_mean.clone(), net[1].num_batches_tracked.item()
    TRADES()(net, x, y, ATTACK)
    assert net[1].num_batches_tracked == seen + 2
    for images in (x, x_adv):
        mean = 0.9 * mean + 0.1 * net[0](images).mean((0, 2, 3))
    torch.testing.assert_close(net[1].running_mean, mean)


def test_the_batches_pass_through_batch_norm_apart(net, batch):
    x, y = batch
    crafted = TRADES().craft(net, x, y, ATTACK)
    output = TRADES().loss(net, x, y, crafted)
    torch.testing.assert_close(output.logits, net(x))
    torch.testing.assert_close(output.logits_adv, net(crafted[0]))


def test_the_clean_logits_of_the_inner_loop_are_computed_once(net, batch):
    calls = []
    net.register_forward_hook(lambda *arguments: calls.append(1))
    TRADES()(net, *batch, ATTACK)
    assert len(calls) == 3 + 1 + 2


@pytest.mark.parametrize("factor", [0, 0.5])
def test_a_scaled_attack_works(net, batch, factor):
    x, y = batch
    crafted = TRADES().craft(net, x, y, ATTACK.scaled(factor))
    torch.testing.assert_close(crafted[0], literal_kl_pgd(net, x, 0.1 * factor, 0.03 * factor))
    output = TRADES().loss(net, x, y, crafted)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(output.loss, list(net.parameters())))
    if factor == 0:
        torch.testing.assert_close(output.loss, nn.functional.cross_entropy(net(x), y))


def test_several_attacks_work(net, batch):
    attack = WorstOf([ATTACK, PGD(norm="l2", eps=0.3, step_size=0.1, steps=2, seed=1)])
    x_adv = TRADES().craft(net, *batch, attack)[0]
    members = [a.maximising("kl")(net, *batch) for a in attack.attacks]
    assert all(any(torch.equal(row, member[i]) for member in members) for i, row in enumerate(x_adv))
    assert not torch.equal(x_adv, attack(net, *batch))


def test_attacks_without_a_kl_form_are_refused(net, batch):
    class Shift(Attack):
        def __call__(self, model, x, y):
            return x

    with pytest.raises(ValueError, match="loss 'kl' has a zero gradient at the clean image; set random_start=True"):
        TRADES()(net, *batch, FGSM())
    with pytest.raises(TypeError, match="Shift has no `maximising` method, which this objective needs to attack loss"):
        TRADES()(net, *batch, Shift())
    with pytest.raises(TypeError, match="function has no `maximising` method"):
        TRADES()(net, *batch, lambda model, x, y: x)


def test_the_loss_is_the_same_twice_and_follows_the_weights(net, batch):
    crafted = TRADES().craft(net, *batch, ATTACK)
    assert not crafted[0].requires_grad
    first = TRADES().loss(net, *batch, crafted).loss
    assert torch.equal(first, TRADES().loss(net, *batch, crafted).loss)
    with torch.no_grad():
        net[4].weight.mul_(2)
    assert not torch.equal(first, TRADES().loss(net, *batch, crafted).loss)


def test_arguments_out_of_range_are_named():
    with pytest.raises(ValueError, match="beta must be at least 0, got -1"):
        TRADES(beta=-1)
    with pytest.raises(ValueError, match="label_smoothing must be less than 1, got 1"):
        TRADES(label_smoothing=1)
    with pytest.raises(ValueError, match="label_smoothing must be at least 0"):
        TRADES(label_smoothing=-0.1)
    with pytest.raises(TypeError, match="positional"):
        TRADES(6)
    assert TRADES(beta="13/2").beta == 6.5
    assert TRADES() == TRADES(beta=6, label_smoothing=0)
