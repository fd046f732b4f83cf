"""On a linear model the nearest misclassified image is known; CW has to come within 2 % of it."""

import pytest
import torch

from lightning_advreg.attacks.base import SearchAttack
from lightning_advreg.attacks.cw import CW

SHAPES = [(1, 8, 8), (3, 5, 4), (10,)]
FAST = {"steps": 150, "binary_search_steps": 7, "initial_const": 0.01}


def run(attack, model, x, y, **keywords):
    return SearchAttack.__call__(attack, model, x, y, **keywords)


class Linear:
    """Two classes; most pixels of an image speak for its label, inside the box or in a corner of it."""

    def __init__(self, shape, batch, *, corner=False):
        self.weight = torch.randn(shape)
        self.y = torch.arange(batch) % 2
        self.slope = self.weight * (1 - 2.0 * self.y).view(-1, *[1] * len(shape))
        agrees = torch.rand(batch, *shape) < 0.8
        self.x = 0.5 - (0.5 if corner else 0.1) * torch.where(agrees, 1, -1) * self.slope.sign()
        self.gap = -((self.x - 0.5) * self.slope).flatten(1).sum(1)
        assert (self.gap > 0).all()

    def __call__(self, x):
        margin = ((x - 0.5) * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(margin), margin], 1)

    def optimum(self, extra=0.0):
        """The least distance at which the other logit is ahead by ``extra``, found by bisection along clipped rays."""
        low, high = torch.zeros(len(self.x)), torch.full((len(self.x),), 100.0)
        for _ in range(60):
            middle = (low + high) / 2
            change = self.change(middle)
            enough = (change * self.slope).flatten(1).sum(1) >= self.gap + extra
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return self.change(high).flatten(1).norm(dim=1)

    def change(self, length):
        return (self.x + length.view(-1, *[1] * (self.x.dim() - 1)) * self.slope).clamp(0, 1) - self.x


def distance(x_adv, x):
    return (x_adv - x).flatten(1).norm(dim=1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("corner", [False, True], ids=["inside", "corner"])
def test_it_finds_the_least_distance(shape, batch, corner):
    model = Linear(shape, batch, corner=corner)
    attack = CW(steps=300, binary_search_steps=7, initial_const=0.01)
    x_adv = run(attack, model, model.x, model.y)
    assert (model(x_adv).argmax(1) != model.y).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    ratio = distance(x_adv, model.x) / model.optimum()
    assert (ratio >= 1 - 1e-4).all() and (ratio <= 1.02).all()


def test_pixels_at_the_very_ends_of_the_box_move():
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([0, 1])
    x_adv = run(CW(**FAST), lambda z: torch.stack([torch.zeros(len(z)), z.sum(1) - 1], 1), x, y)
    torch.testing.assert_close(x_adv, torch.full((2, 2), 0.5), atol=5e-3, rtol=0)


def test_pixels_pushed_to_the_border_stay_in_the_box():
    x = torch.rand(4, 64) ** 4
    x_adv = run(CW(**FAST), lambda z: torch.stack([z.sum(1), torch.full((len(z),), 4.0)], 1), x, torch.zeros(4).long())
    assert (x_adv.sum(1) < 4).all() and (x_adv == 0).float().mean() > 0.2
    assert x_adv.min() >= 0


@pytest.fixture
def curved():
    weight, out = 0.3 * torch.randn(12, 16), torch.randn(16, 4)
    return lambda x: torch.tanh((x.flatten(1) - 0.5) @ weight) @ out


@pytest.fixture
def images(curved):
    x = torch.rand(6, 1, 3, 4)
    return x, curved(x).argmax(1)


def gap(logits, y):
    own = logits.gather(1, y.unsqueeze(1))
    return (logits.scatter(1, y.unsqueeze(1), -torch.inf).amax(1, keepdim=True) - own).squeeze(1)


def test_kappa_asks_for_a_margin(curved, images):
    x, y = images
    near, far = (run(CW(**FAST, kappa=kappa), curved, x, y) for kappa in (0, 0.3))
    for x_adv, kappa in ((near, 0.0), (far, 0.3)):
        assert (gap(curved(x_adv), y) >= kappa - 1e-5).all()
        assert (gap(curved(x_adv), y) <= kappa + 0.1).all()
    assert (distance(far, x) > distance(near, x)).all()


def test_the_result_is_the_nearest_success_of_all_that_was_asked(curved, images):
    x, y = images[0][:1], images[1][:1]
    asked = []

    def model(z):
        asked.append(z.detach().clone())
        return curved(z)

    x_adv = run(CW(steps=60, binary_search_steps=3, initial_const=10, lr=0.05), model, x, y)
    asked = torch.cat(asked)
    fooled = asked[curved(asked).argmax(1) != y]
    assert len(fooled) > 10
    assert distance(x_adv, x).item() == distance(fooled, x).min().item()


def test_kappa_is_met_exactly_on_a_linear_model():
    model = Linear((10,), 6)
    x_adv = run(CW(**FAST, kappa=0.2, abort_early=False), model, model.x, model.y)
    ratio = distance(x_adv, model.x) / model.optimum(0.2)
    assert (ratio >= 1 - 1e-4).all() and (ratio <= 1.02).all()


def test_a_targeted_attack_reaches_its_target_at_no_less_distance(curved, images):
    x, y = images
    others = torch.stack([(y + k) % 4 for k in (1, 2, 3)])
    untargeted = distance(run(CW(**FAST), curved, x, y), x)
    reached = []
    for target in others:
        x_adv = run(CW(**FAST, targeted=True), curved, x, target)
        hit = curved(x_adv).argmax(1) == target
        assert torch.equal(x_adv[~hit], x[~hit])
        reached.append(torch.where(hit, distance(x_adv, x), torch.inf))
    nearest = torch.stack(reached).amin(0)
    assert (torch.stack(reached) < torch.inf).float().mean() > 0.5
    torch.testing.assert_close(nearest, untargeted, rtol=0.05, atol=0)


def test_images_already_misclassified_come_back_untouched(curved, images):
    x, y = images
    assert torch.equal(run(CW(**FAST), curved, x, (y + 1) % 4), x)
    assert torch.equal(run(CW(**FAST, targeted=True), curved, x, y), x)


def test_images_that_need_more_than_eps_come_back_clean():
    model = Linear((10,), 7)
    needed = model.optimum()
    eps = needed.median().item() * 1.03
    x_adv = run(CW(**FAST, eps=eps), model, model.x, model.y)
    near = needed < eps
    assert near.any() and not near.all()
    assert torch.equal(x_adv[~near], model.x[~near])
    assert (model(x_adv).argmax(1) != model.y)[near].all() and (distance(x_adv, model.x) <= eps + 1e-6).all()
    each = run(CW(**FAST), model, model.x, model.y, eps=needed * torch.tensor([1.1, 0.9] * 3 + [1.1]))
    assert ((model(each).argmax(1) != model.y) == torch.tensor([True, False] * 3 + [True])).all()


def test_nothing_found_is_the_clean_image():
    def constant(z):
        return torch.stack([1 + 0 * z.sum(1), 0 * z.sum(1)], 1)

    x = torch.rand(3, 4)
    assert torch.equal(run(CW(steps=20, binary_search_steps=3), constant, x, torch.zeros(3, dtype=torch.long)), x)


def test_images_are_attacked_independently(curved, images):
    x, y = images[0].double(), images[1]

    def model(z):
        return curved(z.float()).double()

    attack = CW(steps=60, binary_search_steps=4, initial_const=0.1)
    alone = torch.cat([run(attack, model, x[i : i + 1], y[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(run(attack, model, x, y), alone, atol=1e-3, rtol=0)


def test_searches_that_gain_nothing_end_early_at_little_loss(curved, images):
    x, y = images
    costs, lengths = [], []
    for abort_early in (True, False):
        asked = []

        def counting(z, asked=asked):
            asked.append(len(z))
            return curved(z)

        x_adv = run(CW(steps=300, binary_search_steps=4, initial_const=0.1, abort_early=abort_early), counting, x, y)
        costs.append(sum(asked))
        lengths.append(distance(x_adv, x))
    assert costs[1] == 300 * 4 * 6
    assert costs[0] < 0.8 * costs[1]
    torch.testing.assert_close(lengths[0], lengths[1], rtol=0.03, atol=0)


def test_a_call_attacks_in_batches(curved, images):
    x, y = images
    x_adv = CW(**FAST, batch_size=4)(curved, x, y)
    assert (curved(x_adv).argmax(1) != y).all()
    torch.testing.assert_close(distance(x_adv, x), distance(run(CW(**FAST), curved, x, y), x), rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "linf"}, r"norm must be l2 for CW, got 'linf'; for linf and l1 use FAB, or APGD"),
        ({"kappa": -1}, r"kappa must be at least 0, got -1"),
        ({"lr": 0}, r"lr must be above 0, got 0"),
        ({"initial_const": 0}, r"initial_const must be above 0, got 0"),
        ({"steps": 0}, r"steps must be an integer of at least 1, got 0"),
        ({"binary_search_steps": 0}, r"binary_search_steps must be an integer of at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        CW(**arguments)
