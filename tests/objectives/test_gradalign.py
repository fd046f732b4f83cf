"""The penalty on turning gradients, and what it shares with FGSM."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import FGSM, PGD
from lightning_advreg.objectives.gradalign import GradAlign, misalignment

EPS = 0.1


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).double().train()


@pytest.fixture
def normed():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)
    return nn.Sequential(*layers).double().train()


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.rand(6, 1, 6, 6).double(), torch.tensor([0, 1, 2, 3, 4, 0])


def input_gradients(net, x, y):
    """Of the loss of one image after another, with a graph; BatchNorm sees the whole batch."""
    leaf = x.clone().requires_grad_()
    log_p = torch.log_softmax(net(leaf), 1)
    rows = []
    for i in range(len(x)):
        rows.append(torch.autograd.grad(-log_p[i, y[i]], leaf, create_graph=True)[0])
    # with BatchNorm the loss of an image depends on the others too; the objective differentiates their sum
    return sum(rows)


def literal(net, x, y, x_adv, eta, *, weight=0.2, smoothing=0.0, detach_clean=False):
    first, second = input_gradients(net, x, y), input_gradients(net, (x + eta).clamp(0, 1), y)
    if detach_clean:
        first = first.detach()
    penalties = []
    for g, h in zip(first, second, strict=True):
        if g.norm() == 0 or h.norm() == 0:
            continue
        penalties.append(1 - (g * h).sum() / (g.norm() * h.norm()))
    log_p = torch.log_softmax(net(x_adv), 1)
    cross_entropy = 0
    for i in range(len(x)):
        target = torch.full_like(log_p[i], smoothing / log_p.shape[1])
        target[y[i]] += 1 - smoothing
        cross_entropy = cross_entropy - (target * log_p[i]).sum() / len(x)
    return cross_entropy + weight * sum(penalties) / len(penalties)


def literal_fgsm(net, x, y):
    return (x + EPS * input_gradients(net, x, y).detach().sign()).clamp(0, 1)


def noise(x, seed=5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EPS * (2 * torch.rand_like(x) - 1)


def gradients(loss, net):
    return torch.autograd.grad(loss, list(net.parameters()))


def assert_same(ours, theirs, net):
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
    for a, b in zip(gradients(ours, net), gradients(theirs, net), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("kind", ["net", "normed"])
@pytest.mark.parametrize(
    "arguments", [{}, {"weight": "3/2"}, {"label_smoothing": 0.3}, {"detach_clean": True}], ids=repr
)
def test_loss_and_gradients_equal_the_formula(kind, batch, arguments, request):
    net, (x, y) = request.getfixturevalue(kind), batch
    names = {"label_smoothing": "smoothing"}
    literally = {names.get(name, name): 1.5 if name == "weight" else value for name, value in arguments.items()}
    expected = literal(net, x, y, literal_fgsm(net, x, y), noise(x), **literally)
    torch.manual_seed(5)
    output = GradAlign(**arguments)(net, x, y, FGSM(eps=EPS))
    assert_same(output.loss, expected, net)


@pytest.mark.parametrize(
    "attack", [FGSM(eps=EPS), FGSM(eps=EPS, step_size=0.04), FGSM(eps=EPS, step_size=0.3)], ids=repr
)
@pytest.mark.parametrize("detach_clean", [False, True])
def test_crafting_first_gives_the_same(net, batch, attack, detach_clean):
    objective = GradAlign(weight=0.7, label_smoothing=0.1, detach_clean=detach_clean)
    torch.manual_seed(5)
    shared = objective(net, *batch, attack)
    torch.manual_seed(5)
    crafted = objective.craft(net, *batch, attack)
    assert not any(part.requires_grad for part in crafted)
    apart = objective.loss(net, *batch, crafted)
    assert_same(shared.loss, apart.loss, net)
    for name in ("logits", "logits_adv"):
        torch.testing.assert_close(getattr(shared, name), getattr(apart, name))


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(eps=EPS, random_start=True, seed=2),
        FGSM(eps=EPS, loss="margin"),
        FGSM(eps=EPS, targeted=True),
        PGD(eps=EPS, step_size=0.05, steps=2, seed=2),
    ],
    ids=["random start", "margin", "targeted", "pgd"],
)
def test_an_attack_of_another_kind_is_run_as_it_is(normed, batch, attack):
    x, y = batch
    x_adv = attack(normed, x, y)
    torch.manual_seed(5)
    output = GradAlign()(normed, x, y, attack)
    # after the objective, since passes in training mode move the statistics that attacks in eval mode use
    assert_same(output.loss, literal(normed, x, y, x_adv, noise(x)), normed)


def test_the_shared_gradient_is_that_of_the_training_mode(normed, batch):
    """A network whose eval mode attacks elsewhere shows which mode made the images."""
    x, y = batch
    torch.manual_seed(5)
    logits_adv = GradAlign()(normed, x, y, FGSM(eps=EPS)).logits_adv
    assert not torch.allclose(logits_adv, normed(FGSM(eps=EPS)(normed, x, y)), atol=1e-6)
    torch.testing.assert_close(logits_adv, normed(literal_fgsm(normed, x, y)))


class CountBackward(torch.autograd.Function):
    calls = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        CountBackward.calls += 1
        # differentiable again, and counted then too
        return CountBackward.apply(grad)


class Counted(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.forwards = net, 0

    def forward(self, x):
        self.forwards += 1
        return self.net(CountBackward.apply(x))


@pytest.mark.parametrize(
    ("attack", "forwards", "backwards"),
    [(FGSM(eps=EPS), 3, 2), (FGSM(eps=EPS, random_start=True), 4, 3), (PGD(eps=EPS, steps=4), 7, 6)],
    ids=["fgsm", "fgsm-rs", "pgd"],
)
def test_number_of_passes(net, batch, attack, forwards, backwards):
    model = Counted(net)
    GradAlign()(model, *batch, attack)  # the first call tries the second derivative too
    model.forwards = CountBackward.calls = 0
    GradAlign()(model, *batch, attack)
    assert (model.forwards, CountBackward.calls) == (forwards, backwards)


def test_the_clean_gradient_keeps_no_graph_when_it_is_held_fixed(net, batch):
    """Each gradient that is differentiated again leads through the counter twice: in its own graph and in the pass."""
    model = Counted(net)
    passes = {}
    for detach_clean in (False, True):
        loss = GradAlign(detach_clean=detach_clean)(model, *batch, FGSM(eps=EPS)).loss
        CountBackward.calls = 0
        loss.backward()
        passes[detach_clean] = CountBackward.calls
    assert passes == {False: 4, True: 2}


def test_logits_are_handed_on(net, batch):
    x, y = batch
    output = GradAlign()(net, x, y, FGSM(eps=EPS))
    torch.testing.assert_close(output.logits, net(x))
    assert not output.logits.requires_grad
    torch.testing.assert_close(output.logits_adv, net(FGSM(eps=EPS)(net, x, y)))


class Gated(nn.Module):
    """Logits that depend on bright images alone, so that dark ones have no gradient."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x):
        return self.layer(x) * (x.flatten(1).amax(1, keepdim=True) > 0.5)


def test_images_without_a_gradient_are_dropped():
    torch.manual_seed(0)
    net = Gated().double()
    x, y = 0.8 + 0.1 * torch.rand(5, 1, 2, 2).double(), torch.tensor([0, 1, 2, 0, 1])
    x[3:] *= 0.1
    x_adv = literal_fgsm(net, x, y)
    expected = literal(net, x, y, x_adv, noise(x), weight=10)
    torch.manual_seed(5)
    loss = GradAlign(weight=10)(net, x, y, FGSM(eps=EPS)).loss
    assert_same(loss, expected, net)
    # a cosine of zero in place of each would add at least 10 * 2 / 5
    assert loss < 3


def test_where_no_image_has_a_gradient_there_is_no_penalty():
    net = Gated().double()
    x, y = torch.full((3, 1, 2, 2), 0.1).double(), torch.tensor([0, 1, 2])
    output = GradAlign(weight=10)(net, x, y, FGSM(eps=EPS))
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(output.logits_adv, y))
    assert all(torch.isfinite(p).all() for p in gradients(output.loss, net))


def test_misalignment_of_known_vectors():
    first = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[0.0, 3.0], [5.0, 5.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(misalignment(first, second), torch.tensor((1 + 0 + 2) / 3))


def test_tiny_gradients_are_no_zero_gradients():
    first, second = torch.tensor([[1e-30, 0.0]]), torch.tensor([[1e-30, 1e-30]]).requires_grad_()
    value = misalignment(first, second)
    torch.testing.assert_close(value, torch.tensor(1 - 0.5**0.5))
    value.backward()
    assert torch.isfinite(second.grad).all()


def test_the_network_is_asked_about_images_alone(batch):
    asked = []

    def model(x):
        asked.append(x.detach())
        return x.flatten(1)[:, :5] ** 2

    x = batch[0].round()
    GradAlign()(model, x, batch[1], FGSM(eps=0.4))
    assert len(asked) == 3
    assert all(images.min() >= 0 and images.max() <= 1 for images in asked)
    # clean, noisy within eps, attacked
    assert torch.equal(asked[0], x)
    assert 0.3 < (asked[1] - x).abs().max() <= 0.4 + 1e-9
