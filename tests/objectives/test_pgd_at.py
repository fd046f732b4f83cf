import math

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.objectives import PGDAT


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    return model.double().train()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 1, 6, 6).double(), torch.tensor([0, 1, 2, 3, 4, 0])


ATTACK = PGD(eps=0.1, step_size=0.03, steps=3, seed=0)


def literal_pgd(net, x, y):
    """Three steps from the start that the attack draws, written out with ``backward``."""
    flags = [module.training for module in net.modules()]
    net.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x_adv = (x + 0.1 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(3):
        x_adv = x_adv.detach().requires_grad_()
        nn.functional.cross_entropy(net(x_adv), y).backward()
        x_adv = x_adv + 0.03 * x_adv.grad.sign()
        x_adv = torch.maximum(torch.minimum(x_adv, x + 0.1), x - 0.1).clamp(0, 1)
    for module, flag in zip(net.modules(), flags, strict=True):
        module.training = flag
    net.zero_grad(set_to_none=True)
    return x_adv.detach()


def literal_cross_entropy(logits, y, smoothing):
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    target = torch.full_like(logits, smoothing / logits.shape[1])
    target[torch.arange(len(y)), y] += 1 - smoothing
    return -(target * log_p).sum() / len(y)


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
@pytest.mark.parametrize("clean_weight", [0.0, 0.3])
def test_loss_and_gradients_equal_the_formula(net, batch, smoothing, clean_weight):
    x, y = batch
    x_adv = literal_pgd(net, x, y)
    expected = (1 - clean_weight) * literal_cross_entropy(net(x_adv), y, smoothing)
    if clean_weight:
        expected = expected + clean_weight * literal_cross_entropy(net(x), y, smoothing)
    gradients = torch.autograd.grad(expected, list(net.parameters()))

    output = PGDAT(label_smoothing=smoothing, clean_weight=clean_weight)(net, x, y, ATTACK)
    torch.testing.assert_close(output.loss, expected, atol=1e-6, rtol=0)
    for ours, theirs in zip(torch.autograd.grad(output.loss, list(net.parameters())), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_logits_are_handed_on(net, batch):
    x, y = batch
    net.eval()
    only_adversarial = PGDAT()(net, x, y, ATTACK)
    assert only_adversarial.logits is None
    torch.testing.assert_close(only_adversarial.logits_adv, net(ATTACK(net, x, y)))
    both = PGDAT(clean_weight=0.5)(net, x, y, ATTACK)
    torch.testing.assert_close(both.logits, net(x))
    torch.testing.assert_close(both.logits_adv, net(ATTACK(net, x, y)))


@pytest.mark.parametrize(("clean_weight", "attack", "passes"), [(0, ATTACK, 4), (0.5, ATTACK, 5), (0, FGSM(), 2)])
def test_number_of_passes(net, batch, clean_weight, attack, passes):
    calls = []
    net.register_forward_hook(lambda *arguments: calls.append(1))
    PGDAT(clean_weight=clean_weight)(net, *batch, attack)
    assert len(calls) == passes


def test_batch_norm_learns_from_attacked_images_in_one_update(net, batch):
    x_adv = ATTACK(net, *batch)
    PGDAT()(net, *batch, ATTACK)
    assert net[1].num_batches_tracked == 1
    torch.testing.assert_close(net[1].running_mean, 0.1 * net[0](x_adv).mean((0, 2, 3)))


def test_a_known_value():
    # logits are the pixels: FGSM with eps 1/4 turns (1/2, 1/2) into (1/4, 3/4)
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    adversarial, clean = math.log(1 + math.exp(0.5)), math.log(2)
    loss = PGDAT(clean_weight="1/4")(nn.Flatten(), x, y, FGSM(eps=0.25)).loss
    assert loss.item() == pytest.approx(0.25 * clean + 0.75 * adversarial, rel=1e-6)


@pytest.mark.parametrize("name", ["label_smoothing", "clean_weight"])
def test_arguments_out_of_range_are_named(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, got -0.1"):
        PGDAT(**{name: -0.1})
    with pytest.raises(ValueError, match=f"{name} must be less than 1, got 1"):
        PGDAT(**{name: 1})
    with pytest.raises(ValueError, match=f"{name} must be a number"):
        PGDAT(**{name: "much"})
    assert getattr(PGDAT(**{name: "1/10"}), name) == 0.1
