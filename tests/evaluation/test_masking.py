"""Networks that hide their gradients are flagged, each for its reason, and honest ones are not."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lightning_advreg.attacks import PGD, AutoAttack
from lightning_advreg.evaluation import masking_flags
from lightning_advreg.evaluation.flags import black_box, pgd_gap, random_logits, unlimited_eps, zero_gradients
from lightning_advreg.evaluation.masking import gap_flags

EPS = 0.1
DIGITS = load_digits()
X = torch.tensor(DIGITS.images, dtype=torch.float32).div(16).unsqueeze(1)
Y = torch.tensor(DIGITS.target)
TRAIN, TEST = slice(0, 1200), slice(1200, 1264)


def trained(seed, adversarial, epochs, lr=3e-3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        attack = PGD(eps=EPS, step_size=EPS / 2, steps=3, check=False)
        optimizer = torch.optim.Adam(network.parameters(), lr)
        for _ in range(epochs):
            for rows in torch.randperm(1200).split(64):
                x, y = X[rows], Y[rows]
                x = attack(network, x, y) if adversarial else x
                optimizer.zero_grad()
                F.cross_entropy(network(x), y).backward()
                optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def honest():
    return trained(0, adversarial=True, epochs=6)


class Around(nn.Module):
    """A network inside of which something is done to images or logits."""

    def __init__(self, network, forward):
        super().__init__()
        self.network, self.run = network, forward

    def forward(self, x):
        return self.run(self.network, x)


class Misled(torch.autograd.Function):
    """The identity, with another gradient than its own."""

    @staticmethod
    def forward(ctx, x, mislead):
        ctx.mislead = mislead
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.mislead(grad), None


def flags_of(network, forward=None, **settings):
    model = network if forward is None else Around(network, forward).eval()
    found = masking_flags(model, X[TEST], Y[TEST], **{"norm": "linf", "eps": EPS, **settings})
    assert all(flag.value > flag.threshold and len(flag.message) > 80 for flag in found)
    return {flag.name: flag for flag in found}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_honest_network_is_not_flagged(honest, seed):
    network = honest if seed == 0 else trained(seed, adversarial=True, epochs=4)
    with torch.no_grad():
        # the network has learnt something worth attacking
        assert (network(X[TEST]).argmax(1) == Y[TEST]).float().mean() > 0.8
    assert flags_of(network, seed=seed) == {}


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("l1", 2.0), ("linf", 1.0)])
def test_an_honest_network_is_not_flagged_in_other_norms(honest, norm, eps):
    assert flags_of(honest, norm=norm, eps=eps) == {}


@pytest.mark.parametrize("seed", [13, 19])
def test_a_plainly_trained_network_is_not_flagged(seed):
    network = trained(seed, adversarial=False, epochs=5)
    assert flags_of(network, eps=0.15) == {}


def test_confidence_is_no_masking():
    """Probabilities are 1 in float32, yet the gradient of the cross-entropy is not 0."""
    network = trained(0, adversarial=False, epochs=20, lr=1e-2)
    with torch.no_grad():
        certain = network(X[TEST]).softmax(1).amax(1) == 1
    assert certain.float().mean() > 0.1
    assert flags_of(network) == {}


def test_logits_so_far_apart_that_the_gradient_vanishes(honest):
    found = flags_of(honest, lambda net, x: 1e4 * net(x))
    assert {"zero_gradients"} <= found.keys() <= {"zero_gradients", "unlimited_eps"}
    assert found["zero_gradients"].value > 0.5
    assert "probabilities are 0 and 1 in floating point. Attack with the margin" in found["zero_gradients"].message


def test_a_softmax_at_the_end(honest):
    found = flags_of(honest, lambda net, x: net(x).softmax(1))
    assert found.keys() == {"softmax_outputs"}
    assert found["softmax_outputs"].value == 1
    assert "Attack the network without its last softmax." in found["softmax_outputs"].message


def test_a_saturated_softmax_at_the_end(honest):
    found = flags_of(honest, lambda net, x: (1000 * net(x)).softmax(1))
    assert {"softmax_outputs", "zero_gradients", "unlimited_eps"} <= found.keys()
    assert "saturated units" in found["zero_gradients"].message


def test_a_quantiser_in_front(honest):
    found = flags_of(honest, lambda net, x: net((x * 8).round() / 8))
    assert found.keys() == {"zero_gradients", "black_box", "unlimited_eps"}
    assert found["zero_gradients"].value == 1
    assert "rounding" in found["zero_gradients"].message
    assert "withstand a gradient attack that may set every pixel" in found["unlimited_eps"].message


@pytest.mark.parametrize(
    ("forward", "also"),
    [
        (lambda net, x: net(x.detach()), set()),
        (lambda net, x: F.one_hot(net(x).argmax(1), 10).float(), {"softmax_outputs"}),
    ],
)
def test_nothing_to_differentiate(honest, forward, also):
    found = flags_of(honest, forward)
    assert found.keys() == {"zero_gradients"} | also
    assert "do not depend on the images through differentiable operations" in found["zero_gradients"].message


def test_a_function_that_detaches_and_has_weights_that_train(honest):
    weight = torch.ones(1, requires_grad=True)
    flags = masking_flags(lambda x: honest(x.detach()).detach() * weight, X[:8], Y[:8], norm="linf", eps=EPS)
    assert [flag.name for flag in flags] == ["zero_gradients"]
    assert "Gradient attacks cannot run at all" in flags[0].message


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net((x + 0.05 * torch.randn_like(x)).clamp(0, 1)),
        lambda net, x: (lambda z: z + 0.01 * torch.randn_like(z))(net(x)),
        lambda net, x: F.dropout(net(x), 0.1, training=True),
    ],
)
def test_random_numbers_inside(honest, forward):
    calls = []
    hook = honest.register_forward_hook(lambda *_: calls.append(1))
    before = torch.get_rng_state()
    found = flags_of(honest, forward)
    hook.remove()
    assert torch.equal(torch.get_rng_state(), before)
    # nothing was attacked
    assert found.keys() == {"random_logits"} and len(calls) == 3
    assert "AutoAttack(version='rand')" in found["random_logits"].message
    assert flags_of(honest, forward) == found


def test_a_gradient_that_points_elsewhere(honest):
    model = Around(honest, lambda net, x: net(Misled.apply(x, torch.ones_like))).eval()
    flags = masking_flags(model, X[1200:1400], Y[1200:1400], norm="linf", eps=EPS)
    found = {flag.name: flag for flag in flags}
    assert {"black_box"} <= found.keys() <= {"black_box", "unlimited_eps"}
    assert "Quote the worst case over both" in found["black_box"].message


def test_a_gradient_that_points_the_other_way(honest):
    found = flags_of(honest, lambda net, x: net(Misled.apply(x, torch.neg)))
    assert {"unlimited_eps"} <= found.keys() <= {"black_box", "unlimited_eps"}
    assert "it is the attack that fails" in found["unlimited_eps"].message


def test_a_network_that_always_says_the_same_has_nowhere_to_be_led():
    bias = torch.zeros(10)
    bias[3] = 5.0
    found = flags_of(nn.Flatten(), lambda net, x: net(x)[:, :10] * 1e-3 + bias)
    assert found == {}


@pytest.mark.parametrize("images", [0, 1])
def test_few_images(honest, images):
    rows = slice(1200, 1201)
    y = Y[rows] if images else (Y[rows] + 1) % 10
    assert masking_flags(honest, X[rows], y, norm="linf", eps=EPS) == ()


def test_only_the_first_images_are_looked_at_and_the_network_stays_as_it_was(honest):
    sizes = []

    def blind(net, x):
        sizes.append((len(x), net.training))
        return net(x.detach())

    model = Around(honest, blind).train()
    try:
        masking_flags(model, X[TEST], Y[TEST], norm="linf", eps=EPS, max_images=5)
        assert set(sizes) == {(5, False)}
        assert all(child.training for child in model.modules())
        assert all(parameter.requires_grad for parameter in model.parameters())
    finally:
        model.eval()


def test_thresholds():
    assert random_logits(1e-4) is None and random_logits(2e-4).value == 2e-4
    # logits of minus infinity for classes ruled out differ by NaN
    assert random_logits(float("nan")) is None
    assert zero_gradients(0, 0, 100) is None and zero_gradients(1, 0, 100).value == 0.01
    # six images that fell to Square alone may be luck (1 in 64), seven hardly (1 in 128)
    assert black_box(100, 94, 94, 256) is None and black_box(100, 93, 93, 256).value == pytest.approx(7 / 256)
    # but not where the gradients have as many of their own: 20 against 13
    assert black_box(100, 93, 80, 256) is None
    assert black_box(90, 100, 90, 256) is None and black_box(0, 0, 0, 5) is None
    assert black_box(7000, 6980, 6980, 10_000) is None and black_box(7000, 6979, 6979, 10_000) is not None
    assert unlimited_eps(2, 200) is None and unlimited_eps(3, 200).value == 0.015
    assert pgd_gap(("pgd", 0.57), ("aa", 0.5)) is None
    assert pgd_gap(("pgd", 0.59), ("aa", 0.5)).value == pytest.approx(0.09)


def test_pgd_is_compared_with_autoattack_at_the_same_budget():
    auto = AutoAttack(eps="8/255")
    pgd = PGD(eps=8 / 255, steps=50)
    (flag,) = gap_flags({"aa": (auto, 0.5), "pgd50": (pgd, 0.6)})
    assert (flag.name, flag.value, flag.threshold) == ("pgd_gap", 0.1, 0.08)
    assert "pgd50 leaves an accuracy of 60.0 %, aa 50.0 % at the same budget" in flag.message
    others = {
        "close": (pgd, 0.57),
        "larger budget": (PGD(eps=16 / 255, steps=50), 0.9),
        "other norm": (PGD(eps=8 / 255, norm="l2", steps=50), 0.9),
        "few steps": (PGD(eps=8 / 255, steps=10), 0.9),
        "not an attack of ours": (lambda model, x, y: x, 0.9),
    }
    assert gap_flags({"aa": (auto, 0.5), **others}) == ()
    assert gap_flags({"pgd": (pgd, 0.9)}) == ()


def test_messages(honest):
    with pytest.raises(ValueError, match="eps must be above 0 and max_images 1 or more, got 0 and 256"):
        masking_flags(honest, X[:4], Y[:4], norm="linf", eps=0)
    with pytest.raises(ValueError, match=r"got 0\.1 and 0"):
        masking_flags(honest, X[:4], Y[:4], norm="linf", eps=0.1, max_images=0)
    with pytest.raises(TypeError, match="images must be floating point"):
        masking_flags(honest, X[:4].int(), Y[:4], norm="linf", eps=0.1)
