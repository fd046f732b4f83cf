import copy

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import PGD
from lightning_advreg.objectives.adversarial_mixup import AdversarialMixup

from .test_pgd_at import literal_pgd
from .test_trades import assert_same


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5))
    model(torch.rand(32, 1, 6, 6))
    return model.double().train()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 1, 6, 6).double(), torch.tensor([0, 1, 2, 3, 4, 0])


ATTACK = PGD(eps=0.1, step_size=0.03, steps=3, seed=0)


def literal_mixup(net, x, y, order, share):
    mixed = torch.stack([share * x[i] + (1 - share) * x[order[i]] for i in range(len(x))])
    log_p = net(mixed).log_softmax(1)
    return -sum(share * log_p[i, y[i]] + (1 - share) * log_p[i, y[order[i]]] for i in range(len(x))) / len(x)


def test_loss_and_gradients_equal_the_formula(net, batch):
    x, y = batch
    reference = copy.deepcopy(net)
    x_adv = literal_pgd(reference, x, y)
    crafted = AdversarialMixup().craft(net, x, y, ATTACK)
    torch.testing.assert_close(crafted[0], x_adv)
    order, share = crafted[1].tolist(), crafted[2].item()
    assert sorted(order) == list(range(6)) and 0 < share < 1
    losses = [literal_mixup(reference, images, y, order, share) for images in (x, x_adv)]
    assert_same(AdversarialMixup().loss(net, x, y, crafted).loss, net, sum(losses) / 2, reference)


def test_what_is_mixed_is_fixed_when_it_is_crafted(net, batch):
    objective = AdversarialMixup()
    crafted = objective.craft(net, *batch, ATTACK)
    assert torch.equal(objective.loss(net, *batch, crafted).loss, objective.loss(net, *batch, crafted).loss)
    again = objective.craft(net, *batch, ATTACK)
    assert not torch.equal(again[2], crafted[2])
    torch.manual_seed(7)
    first = objective.craft(net, *batch, ATTACK)
    torch.manual_seed(7)
    assert all(map(torch.equal, first, objective.craft(net, *batch, ATTACK)))


@pytest.mark.parametrize("alpha", [0.2, 1, 8])
def test_the_share_follows_a_beta_distribution(alpha):
    torch.manual_seed(0)
    x, y = torch.rand(2, 1, 1, 2), torch.tensor([0, 1])
    objective = AdversarialMixup(alpha=alpha)
    shares = torch.stack([objective.craft(nn.Flatten(), x, y, lambda *batch: x)[2] for _ in range(2000)])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_a_label_keeps_the_share_of_its_image():
    # the logits are ten times the pixels: an image on its own class has a loss near 0
    x, y = torch.eye(2).view(2, 1, 1, 2), torch.tensor([0, 1])
    crafted = x, torch.tensor([1, 0]), torch.tensor(1.0, dtype=torch.float64)
    assert AdversarialMixup().loss(lambda images: 10 * images.flatten(1), x, y, crafted).loss < 1e-3


def test_the_logits_of_mixed_images_are_not_handed_on(net, batch):
    output = AdversarialMixup()(net, *batch, ATTACK)
    assert output.logits is None and output.logits_adv is None


def test_number_of_passes_and_updates(net, batch):
    calls = []
    net.register_forward_hook(lambda *arguments: calls.append(1))
    seen = net[1].num_batches_tracked.item()
    AdversarialMixup()(net, *batch, ATTACK)
    assert len(calls) == 3 + 2
    assert net[1].num_batches_tracked == seen + 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_images_keep_their_dtype(dtype):
    seen = []

    def model(images):
        seen.append(images.dtype)
        return images.flatten(1)

    x, y = torch.rand(2, 1, 1, 3, dtype=dtype), torch.tensor([0, 2])
    loss = AdversarialMixup()(model, x, y, lambda *batch: x).loss
    assert set(seen) == {dtype} and loss.dtype == torch.float32


def test_under_autocast(net, batch):
    x, y = batch[0].float(), batch[1]
    objective = AdversarialMixup()
    crafted = objective.craft(net.float(), x, y, ATTACK)
    exact = objective.loss(net, x, y, crafted)
    with torch.autocast("cpu", torch.bfloat16):
        objective(net, x, y, ATTACK)
        output = objective.loss(net, x, y, crafted)
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=0.05)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_saturated_network_gives_finite_loss_and_gradients():
    logits = torch.tensor([[1e4, -1e4, -1e4], [-1e4, 1e4, -1e4]], requires_grad=True)
    x, y = torch.rand(2, 1, 1, 1), torch.tensor([0, 0])
    output = AdversarialMixup()(lambda images: logits, x, y, lambda *batch: x)
    assert output.loss.isfinite()
    output.loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("alpha", [0, -1])
def test_alpha_out_of_range_is_named(alpha):
    with pytest.raises(ValueError, match=f"alpha must be positive, got {alpha}; for no mixup use PGDAT"):
        AdversarialMixup(alpha=alpha)


def test_alpha_as_text():
    assert AdversarialMixup(alpha="1/5").alpha == 0.2
    with pytest.raises(ValueError, match="alpha must be a number"):
        AdversarialMixup(alpha="some")
