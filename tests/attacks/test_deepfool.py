"""DeepFool goes to the nearest boundary of the linearised network."""

import pytest
import torch

from lightning_advreg.attacks.acceleration import SearchModel
from lightning_advreg.attacks.base import SearchAttack
from lightning_advreg.attacks.deepfool import DeepFool
from lightning_advreg.attacks.survivors import Survivors

ORDERS = {"linf": torch.inf, "l2": 2}
DUALS = {"linf": 1, "l2": 2}
SHAPES = [(1, 8, 8), (3, 5, 4), (10,)]

norms = pytest.mark.parametrize("norm", ORDERS)
cases = pytest.mark.parametrize(
    ("shape", "batch"), [(s, b) for s in SHAPES for b in (1, 7)], ids=lambda v: str(v).replace(" ", "")
)


def run(attack, model, x, y, **kwargs):
    """Past the evaluation: the search itself."""
    return SearchAttack.__call__(attack, model, x, y, **kwargs)


def distance(norm, x_adv, x):
    return torch.linalg.vector_norm((x_adv - x).flatten(1), ORDERS[norm], dim=1)


def wrong(model, x_adv, y):
    return model(x_adv).argmax(1) != y


def linear_case(shape, batch, classes):
    """A linear model, images whose way to the boundaries meets no side of the box, and the length of the shortest."""
    weight = torch.randn(classes, *shape, dtype=torch.float64).flatten(1)
    bias = -0.5 * weight.sum(1)
    x = 0.5 + 0.02 * (torch.rand(batch, *shape).double() - 0.5)
    model = lambda x: x.flatten(1) @ weight.T + bias  # noqa: E731
    logits = model(x)
    y = logits.argmax(1)
    gaps, normals = logits.gather(1, y[:, None]) - logits, weight[None] - weight[y][:, None]
    # the direction of the shortest move, and its length, towards each class
    lengths = {norm: gaps / torch.linalg.vector_norm(normals, q, dim=2) for norm, q in DUALS.items()}
    return model, x, y, lengths, normals


@cases
@norms
@pytest.mark.parametrize("overshoot", [0.02, 0.5])
def test_two_classes_exactly(shape, batch, norm, overshoot):
    model, x, y, lengths, normals = linear_case(shape, batch, 2)
    rows = torch.arange(batch)
    length, normal = lengths[norm][rows, 1 - y], normals[rows, 1 - y]
    unit = normal.sign() if norm == "linf" else normal / normal.norm(dim=1, keepdim=True)
    x_adv = run(DeepFool(norm=norm, overshoot=overshoot), model, x, y)
    best = x + ((1 + overshoot) * length[:, None] * unit).view_as(x)
    torch.testing.assert_close(x_adv, best, atol=1e-12, rtol=0)
    assert wrong(model, x_adv, y).all()


@norms
@pytest.mark.parametrize("candidates", [None, 10, 6])
def test_the_nearest_of_many_boundaries(norm, candidates):
    model, x, y, lengths, _ = linear_case((3, 4, 4), 9, 6)
    best = lengths[norm].scatter(1, y[:, None], torch.inf).amin(1)
    x_adv = run(DeepFool(norm=norm, candidates=candidates), model, x, y)
    torch.testing.assert_close(distance(norm, x_adv, x), 1.02 * best, rtol=1e-9, atol=0)


@norms
def test_candidates_are_the_likeliest_classes(norm):
    model, x, y, lengths, _ = linear_case((10,), 200, 6)
    found = {
        count: distance(norm, run(DeepFool(norm=norm, candidates=count), model, x, y), x) / 1.02 for count in (2, 3)
    }
    ranked = model(x).topk(3).indices[:, 1:]
    for count, length in found.items():
        best = lengths[norm].gather(1, ranked[:, : count - 1]).amin(1)
        # another class may come first on the way
        assert (length <= best * (1 + 1e-9)).all()
        assert torch.isclose(length, best).float().mean() > 0.9
    assert (found[3] < 0.99 * found[2]).any()


@norms
def test_the_whole_change_overshoots_not_each_step(norm):
    # one pixel; f_1 - f_0 = z^2 - 0.25 from 0.2: Newton's steps from the point that overshoots
    model = lambda z: torch.stack([0 * z[:, 0] + 0.25, z[:, 0] ** 2], dim=1)  # noqa: E731
    x, z, total, steps = torch.tensor([[0.2]], dtype=torch.float64), 0.2, 0.0, 0
    while z**2 <= 0.25:
        total += abs(z**2 - 0.25) / (2 * z)
        z, steps = min(0.2 + 1.02 * total, 1), steps + 1
    assert steps == 1
    # from above the steps fall short of the root instead, several times
    model_2 = lambda z: torch.stack([0 * z[:, 0] + 0.7, z[:, 0] ** 0.5], dim=1)  # noqa: E731
    z_2, total, steps_2 = 0.2, 0.0, 0
    while z_2**0.5 <= 0.7:
        total += (0.7 - z_2**0.5) * 2 * z_2**0.5
        z_2, steps_2 = 0.2 + 1.02 * total, steps_2 + 1
    assert steps_2 >= 2
    y = torch.tensor([0])
    for network, end in ((model, z), (model_2, z_2)):
        assert run(DeepFool(norm=norm), network, x, y).item() == pytest.approx(end, abs=1e-9)


@norms
def test_results_lie_in_the_box_and_are_wrong(net, norm):
    x = torch.rand(20, 3, 6, 6)
    x[:8] = x[:8].round()
    x[0], x[1] = 0, 1
    y = net(x).argmax(1)
    x_adv = run(DeepFool(norm=norm), net, x, y)
    assert wrong(net, x_adv, y).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@norms
def test_targeted_reaches_the_target(net, norm):
    x = torch.rand(12, 3, 6, 6)
    y = net(x).argmax(1)
    target = net(x).topk(3).indices[:, 2]
    x_adv = run(DeepFool(norm=norm, targeted=True), net, x, target)
    assert torch.equal(net(x_adv).argmax(1), target)
    assert (distance(norm, x_adv, x) >= 0.8 * distance(norm, run(DeepFool(norm=norm), net, x, y), x)).all()


@norms
def test_images_beyond_eps_come_back_clean(norm):
    model, x, y, lengths, _ = linear_case((3, 4, 4), 12, 4)
    needed = 1.02 * lengths[norm].scatter(1, y[:, None], torch.inf).amin(1)
    eps = needed.median().item() * (1 + 1e-6)
    x_adv = run(DeepFool(norm=norm, eps=eps), model, x, y)
    assert wrong(model, x_adv, y).tolist() == (needed < eps).tolist()
    assert torch.equal(x_adv[needed > eps], x[needed > eps])
    per_image = needed * torch.tensor([1.01, 0.99] * 6)
    x_adv = run(DeepFool(norm=norm), model, x, y, eps=per_image)
    assert wrong(model, x_adv, y).tolist() == [True, False] * 6


def test_without_success_the_image_comes_back_clean():
    # the second class rises with the mean of the image, to 0.99 at most
    level = torch.tensor([[2.0], [1.0], [0.5]])
    features = torch.eye(3)
    # an image carries its own threshold in the pixels that the second class ignores
    x = torch.cat([torch.full((3, 4), 0.25), 0.5 * features], dim=1)

    def model(z):
        return torch.cat([2 * z[:, 4:].detach() @ level, 0.99 * z[:, :4].mean(1, keepdim=True)], dim=1)

    x_adv = run(DeepFool(), model, x, torch.zeros(3, dtype=torch.int64))
    assert torch.equal(x_adv[:2], x[:2])
    best = torch.full((4,), 0.25 + 1.02 * (0.5 / 0.99 - 0.25))
    torch.testing.assert_close(x_adv[2, :4], best, atol=1e-4, rtol=0)


def test_images_already_wrong_come_back_as_they_are(net, batch):
    x, _ = batch
    y = net(x).argmax(1)
    y[::2] = (y[::2] + 1) % 6
    x_adv = run(DeepFool(), net, x, y)
    assert torch.equal(x_adv[::2], x[::2])
    assert wrong(net, x_adv, y).all() and not torch.equal(x_adv[1::2], x[1::2])


def test_no_gradient_no_move():
    constant = lambda x: torch.stack([1 + 0 * x.sum(1), 0 * x.sum(1)], dim=1)  # noqa: E731
    x = torch.rand(4, 5)
    assert torch.equal(run(DeepFool(steps=3), constant, x, torch.zeros(4, dtype=torch.int64)), x)


@norms
@pytest.mark.parametrize("scale", [1e-25, 1e15])
def test_scale_of_the_logits_does_not_matter(net, batch, norm, scale):
    x, _ = batch
    y = net(x).argmax(1)
    x_adv = run(DeepFool(norm=norm), lambda x: net(x) * scale, x, y)
    torch.testing.assert_close(x_adv, run(DeepFool(norm=norm), net, x, y), atol=1e-5, rtol=0)
    assert wrong(net, x_adv, y).all()


@pytest.mark.parametrize("candidates", [2, 4, 10, None])
def test_passes(net, batch, monkeypatch, candidates):
    forward, backward = [], []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: backward.append(1) or original(*a, **k))
    x, _ = batch
    y = net(x).argmax(1)
    never = lambda x: forward.append(len(x)) or net(x) + 1e3 * torch.nn.functional.one_hot(y, 6)  # noqa: E731
    run(DeepFool(steps=7, candidates=candidates), never, x, y)
    # one for the clean logits, one at the end
    assert forward == [5] * (1 + 7 + 1)
    assert len(backward) == 7 * (min(candidates or 6, 6) - 1)


def test_images_leave_when_they_are_beaten():
    # the image of threshold t is beaten where its mean passes t; steps on the square root fall short at first
    sizes = []

    def model(z):
        sizes.append(len(z))
        return torch.stack([z[:, 0].detach(), z[:, 1] ** 0.5], dim=1)

    x = torch.tensor([[0.5, 0.24], [0.9, 0.1], [2.0**0.5 / 2, 0.1], [0.1, 0.0095]], dtype=torch.float64)
    x_adv = run(DeepFool(steps=6), model, x, torch.zeros(4, dtype=torch.int64))
    assert sizes[:2] == [4, 4] and sizes == sorted(sizes, reverse=True) and 0 < sizes[-1] < 4
    assert (x_adv[:, 1] > x[:, 0] ** 2).all() and torch.equal(x_adv[:, 0], x[:, 0])


@norms
def test_batch_size_does_not_matter(net, norm):
    net, x = net.double(), torch.rand(5, 3, 6, 6).double()
    y = net(x).argmax(1)
    alone = torch.cat([run(DeepFool(norm=norm), net, *row) for row in zip(x.split(1), y.split(1), strict=True)])
    torch.testing.assert_close(run(DeepFool(norm=norm), net, x, y), alone, atol=1e-12, rtol=0)


@norms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_results_are_wrong_as_they_are_returned(net, dtype, norm):
    x = torch.rand(12, 3, 6, 6).to(dtype)
    model = lambda x: 30 * net(x.float())  # noqa: E731
    y = model(x).argmax(1)
    x_adv = run(DeepFool(norm=norm), model, x, y)
    assert x_adv.dtype == dtype
    moved = (x_adv != x).flatten(1).any(1)
    assert moved.sum() >= 10 and wrong(model, x_adv[moved], y[moved]).all()


def test_what_a_fast_copy_finds_stands_on_the_original(net):
    x = torch.rand(20, 3, 6, 6)
    y = net(x).argmax(1)
    tilt = 5e-4 * torch.randn(6)
    copy = lambda x: net(x) + tilt  # noqa: E731
    assert wrong(net, run(DeepFool(), SearchModel(net, copy), x, y), y).all()
    assert not wrong(net, run(DeepFool(), copy, x, y), y).all()


@norms
def test_no_step_is_shorter_than_a_thousandth_of_the_way(norm):
    # past 0.6 the boundary seems near at every step, and is not
    x, seen = torch.tensor([[0.5]], dtype=torch.float64), []

    def model(z):
        seen.append(z.item())
        gap = torch.where(z < 0.6, 0.2 * (z - 0.6), z - z.detach() - 1e-12)
        return torch.cat([torch.zeros_like(gap), gap], dim=1)

    run(DeepFool(norm=norm, steps=4, overshoot=0.05), model, x, torch.tensor([0]))
    way = torch.tensor(seen[2:]) - 0.5
    assert way[0].item() == pytest.approx(0.105, abs=1e-6)
    torch.testing.assert_close(way[1:] / way[:-1], torch.full((3,), 1.001), atol=1e-6, rtol=0)


def test_as_on_a_device_where_images_leave_every_tenth_step(net, monkeypatch):
    x = torch.rand(20, 3, 6, 6)
    y = net(x).argmax(1)
    expected = run(DeepFool(), net, x, y)
    original = Survivors.__init__

    def rarely(self, *args):
        original(self, *args)
        self._every = 10

    monkeypatch.setattr(Survivors, "__init__", rarely)
    torch.testing.assert_close(run(DeepFool(), net, x, y), expected, atol=1e-4, rtol=0)


def test_through_the_evaluation(net):
    x = torch.rand(9, 3, 6, 6)
    y = net(x).argmax(1)
    x_adv = DeepFool(batch_size=4)(net, x, y)
    assert wrong(net, x_adv, y).all()
    torch.testing.assert_close(x_adv, run(DeepFool(), net, x, y), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "l1"}, r"DeepFool has no norm 'l1'; .* FAB\(norm='l1'\)"),
        ({"norm": "l3"}, "norm must be one of"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"overshoot": -0.1}, "overshoot must be"),
        ({"candidates": 1}, "candidates must be an integer of at least 2, .* got 1"),
        ({"candidates": 2.0}, "candidates must be an integer of at least 2, .* got 2.0"),
    ],
    ids=str,
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepFool(**arguments)


def test_wants_two_classes(batch):
    with pytest.raises(ValueError, match="at least 2 classes, the network gives 1"):
        run(DeepFool(), lambda x: x.flatten(1)[:, :1], batch[0], torch.zeros(5, dtype=torch.int64))
