"""How FAB goes about its runs: passes, restarts, precision, fast copies, and arguments."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks.acceleration import SearchModel
from lightning_advreg.attacks.fab import FAB
from lightning_advreg.attacks.hyperplane import rounding
from lightning_advreg.attacks.survivors import Survivors
from tests.attacks.test_fab import distance, linear_case, norms, run, wrong


def test_stopping_saves_images():
    counts = {}
    for stop in (True, False):
        torch.manual_seed(0)
        model, x, y = linear_case((3, 4, 4), 12, 4)
        model.images = 0
        run(FAB(norm="l2", eps=100, steps=20, targets=3, stop_within_eps=stop), model, x, y)
        counts[stop] = model.images
    # all fall within the first steps
    assert counts[True] < 12 * 8 and counts[False] == 12 * (1 + 3 * (21 + 3))


@pytest.mark.parametrize(
    ("arguments", "passes"),
    [
        ({}, 1 + 11 + 3),
        ({"targets": 2}, 1 + 2 * (11 + 3)),
        ({"restarts": 3}, 1 + 3 * (11 + 3)),
        ({"targets": 2, "restarts": 3}, 1 + 6 * (11 + 3)),
        ({"targeted": True}, 1 + 11 + 3),
        ({"eps": 0.0}, 1 + 11 + 3),
    ],
    ids=str,
)
def test_one_forward_pass_a_step(net, batch, arguments, passes):
    calls = []
    x, _ = batch
    y = net(x).argmax(1)
    if arguments.get("targeted"):
        y = (y + 1) % 6
    run(FAB(steps=10, **arguments), lambda x: calls.append(len(x)) or net(x), x, y)
    assert calls == [5] * passes


@pytest.mark.parametrize(
    ("arguments", "backward"),
    [({}, 5 * 10), ({"targets": 2}, 2 * 10), ({"targeted": True}, 10)],
    ids=["nearest", "fab-t", "targeted"],
)
def test_backward_passes(net, batch, monkeypatch, arguments, backward):
    calls = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: calls.append(1) or original(*a, **k))
    x, _ = batch
    run(FAB(steps=10, **arguments), net, x, net(x).argmax(1) if not arguments.get("targeted") else batch[1])
    assert len(calls) == backward


@norms
def test_on_a_network_all_results_are_wrong_and_near(net, norm):
    x = torch.rand(20, 3, 6, 6)
    x[:4] = x[:4].round()
    with torch.no_grad():
        y = net(x).argmax(1)
        x_adv = run(FAB(norm=norm, steps=30), net, x, y)
        assert wrong(net, x_adv, y).all() and x_adv.min() >= 0 and x_adv.max() <= 1
        # 1 % nearer to the image along the line the network is right
        assert not wrong(net, x + 0.99 * (x_adv - x), y).any()


@norms
def test_more_runs_never_find_farther_images(wavy, norm):
    wavier = lambda z: wavy(4 * z)  # noqa: E731
    x = torch.rand(30, 1, 3, 4)
    y = wavier(x).argmax(1)
    found = [distance(norm, run(FAB(norm=norm, steps=8, restarts=n), wavier, x, y), x) for n in (1, 2, 6)]
    assert (found[1] <= found[0]).all() and (found[2] <= found[1]).all()
    assert (found[2] < 0.99 * found[0]).any()


@norms
def test_restarts_begin_half_as_far_as_the_best(wavy, norm, monkeypatch):
    x = 0.4 + 0.2 * torch.rand(6, 1, 3, 4)
    y = wavy(x).argmax(1)
    starts = []
    original = FAB._run
    monkeypatch.setattr(FAB, "_run", lambda self, s, start, *a: starts.append(start) or original(self, s, start, *a))
    first = distance(norm, run(FAB(norm=norm, steps=8), wavy, x, y), x)
    run(FAB(norm=norm, steps=8, restarts=2), wavy, x, y)
    assert torch.equal(starts[1], x)
    torch.testing.assert_close(distance(norm, starts[2], x), first / 2, rtol=1e-3, atol=0)
    starts.clear()
    run(FAB(norm=norm, steps=8, restarts=2, eps=1e-4), wavy, x, y)
    torch.testing.assert_close(distance(norm, starts[1], x), torch.full((6,), 5e-5), rtol=2e-3, atol=0)


@pytest.mark.parametrize("eps", [None, 0.2])
def test_restarts_without_any_success(eps):
    constant = lambda x: torch.stack([1 + 0 * x.sum(1), 0 * x.sum(1)], dim=1)  # noqa: E731
    x, y = torch.rand(4, 5), torch.zeros(4, dtype=torch.int64)
    assert torch.equal(run(FAB(steps=3, restarts=3, eps=eps), constant, x, y), x)


@norms
def test_keeps_the_nearest_point_of_a_run(wavy, norm):
    x = torch.rand(40, 1, 3, 4)
    y, seen = wavy(x).argmax(1), []
    label = torch.nn.functional.one_hot(y, 5)
    # without a pull towards the image and with large steps, the points wander off
    attack = FAB(norm=norm, steps=15, alpha_max=0, eta=3, beta=0.99)
    x_adv = run(attack, lambda z: seen.append(z.detach()) or wavy(z), x, y)
    certain = lambda z: wrong(lambda w: wavy(w) + rounding(wavy(w))[:, None] * label, z, y)  # noqa: E731
    points = [(distance(norm, z, x), certain(z)) for z in seen]
    nearest = torch.stack([torch.where(hit, length, torch.inf) for length, hit in points]).amin(0)
    assert nearest.isfinite().all()
    torch.testing.assert_close(distance(norm, x_adv, x), nearest, atol=1e-6, rtol=0)
    # and the last success of the steps would not have been it
    last = torch.stack([torch.where(hit, length, -1.0) for length, hit in points[1:17]])
    assert any((column[column > 0][-1] > 1.01 * column[column > 0].amin()) for column in last.T)


@norms
@pytest.mark.parametrize("arguments", [{}, {"targets": 3}, {"targeted": True}], ids=["nearest", "fab-t", "targeted"])
def test_batch_size_does_not_matter(net, norm, arguments):
    x = torch.rand(8, 3, 6, 6).double()
    y = (net := net.double())(x).argmax(1)
    if "targeted" in arguments:
        y = (y + 1) % 6
    attack = FAB(norm=norm, steps=10, **arguments)
    eps = distance(norm, run(attack, net, x, y), x)
    # some leave at once, some in later runs, some stay
    eps = eps * torch.tensor([5.0, 1.001, 0.9, 1.0, 2.0, 1.001, 0.9, 1.2])
    rows = zip(x.split(1), y.split(1), eps.split(1), strict=True)
    alone = torch.cat([run(attack, net, x, y, eps=eps) for x, y, eps in rows])
    torch.testing.assert_close(run(attack, net, x, y, eps=eps), alone, atol=1e-9, rtol=0)
    assert 2 <= (alone != x).flatten(1).any(1).sum() <= 6


@norms
def test_later_runs_keep_each_image_to_its_own_classes_and_budget(norm):
    model, x, y = linear_case((10,), 1000, 6)
    ranked = model(x).topk(3).indices[:, 1:]
    first, second = (model.nearest(norm, x, y, classes) for classes in ranked.T)
    late = second < 0.8 * first
    # half falls in the first run, and the other half needs the second
    rows = torch.cat([(~late).nonzero()[: late.sum()], late.nonzero()]).squeeze(1)
    x, y, late = x[rows], y[rows], late[rows]
    assert late.sum() >= 5
    eps = torch.where(late, 1.02 * second[rows], 100 * first[rows])
    x_adv = run(FAB(norm=norm, steps=20, targets=2), model, x, y, eps=eps)
    assert wrong(model, x_adv, y).all()
    assert (distance(norm, x_adv, x) <= eps).all()


@pytest.mark.parametrize("arguments", [{}, {"targets": 3}, {"restarts": 2}], ids=str)
def test_as_on_a_device_where_images_leave_every_tenth_step(net, monkeypatch, arguments):
    x = torch.rand(20, 3, 6, 6)
    y = net(x).argmax(1)
    plain = run(FAB(norm="l2", steps=12, **arguments), net, x, y)
    eps = distance("l2", plain, x).median().item()
    expected = wrong(net, run(FAB(norm="l2", steps=12, eps=eps, **arguments), net, x, y), y)
    original = Survivors.__init__

    def rarely(self, *args):
        original(self, *args)
        self._every = 10

    monkeypatch.setattr(Survivors, "__init__", rarely)
    for stop in (True, False):
        x_adv = run(FAB(norm="l2", steps=12, eps=eps, stop_within_eps=stop, **arguments), net, x, y)
        assert (wrong(net, x_adv, y) ^ expected).sum() <= 1
        assert (distance("l2", x_adv, x) <= eps * (1 + 1e-5)).all()
    if "restarts" not in arguments:
        torch.testing.assert_close(run(FAB(norm="l2", steps=12, **arguments), net, x, y), plain, atol=1e-4, rtol=0)


def test_images_already_wrong_come_back_as_they_are(net, batch):
    x, _ = batch
    y = net(x).argmax(1)
    y[::2] = (y[::2] + 1) % 6
    for attack in (FAB(steps=5), FAB(steps=5, restarts=2, targets=2), FAB(steps=5, eps=0.1)):
        x_adv = run(attack, net, x, y)
        assert torch.equal(x_adv[::2], x[::2])
        assert not torch.equal(x_adv[1::2], x[1::2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_results_are_wrong_as_they_are_returned(net, dtype):
    x = torch.rand(12, 3, 6, 6).to(dtype)
    model = lambda x: net(x.float())  # noqa: E731
    y = model(x).argmax(1)
    x_adv = run(FAB(norm="linf", steps=20), model, x, y)
    assert x_adv.dtype == dtype
    moved = (x_adv != x).flatten(1).any(1)
    assert moved.sum() >= 11 and wrong(model, x_adv[moved], y[moved]).all()


def test_what_a_fast_copy_finds_stands_on_the_original(net):
    x = torch.rand(30, 3, 6, 6)
    y = net(x).argmax(1)
    # a copy whose boundaries lie elsewhere, by two thousandths of the largest logit
    tilt = 5e-4 * torch.randn(6)
    copy = lambda x: net(x) + tilt  # noqa: E731
    found = distance("l2", x_adv := run(FAB(norm="l2", steps=30), SearchModel(net, copy), x, y), x)
    exact = distance("l2", run(FAB(norm="l2", steps=30), net, x, y), x)
    assert wrong(net, x_adv, y).all()
    assert (found / exact).median() < 1.05 and (found / exact).max() < 2.5
    # nearest by the copy alone would not do
    unconfirmed = run(FAB(norm="l2", steps=30), copy, x, y)
    assert not wrong(net, unconfirmed, y).all()


def test_within_eps_by_the_original(net):
    x = torch.rand(30, 3, 6, 6)
    y = net(x).argmax(1)
    tilt = 5e-4 * torch.randn(6)
    eps = distance("l2", run(FAB(norm="l2", steps=30), net, x, y), x).median().item()
    for stop in (True, False):
        attack = FAB(norm="l2", steps=30, eps=eps, stop_within_eps=stop)
        x_adv = run(attack, SearchModel(net, lambda x: net(x) + tilt), x, y)
        moved = (x_adv != x).flatten(1).any(1)
        assert 8 <= moved.sum() <= 16
        assert wrong(net, x_adv[moved], y[moved]).all()


def test_through_the_evaluation(net):
    x = torch.rand(9, 3, 6, 6)
    y = net(x).argmax(1)
    x_adv = FAB(norm="l2", steps=20, batch_size=4)(net, x, y)
    assert wrong(net, x_adv, y).all()
    torch.testing.assert_close(
        distance("l2", x_adv, x), distance("l2", run(FAB(norm="l2", steps=20), net, x, y), x), rtol=0.02, atol=0
    )


@norms
def test_successes_do_not_hang_on_rounding(norm):
    model, x, y = linear_case((3, 4, 4), 50, 4)
    model.weight, model.bias, x = model.weight.float(), model.bias.float(), x.float()
    logits = model(run(FAB(norm=norm, steps=10), model, x, y))
    margin = logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None])[:, 0]
    assert (margin > 3e-6 * logits.abs().amax(1)).all()
    assert margin.median() < 1e-3


def test_wants_enough_classes(net, batch):
    with pytest.raises(ValueError, match=r"targets must be at most 5, the number of wrong classes .* got 6"):
        run(FAB(targets=6), net, *batch)
    with pytest.raises(ValueError, match="at least 2 classes, the network gives 1"):
        run(FAB(), nn.Sequential(nn.Flatten(), nn.Linear(108, 1)), batch[0], torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"restarts": 1.5}, "restarts must be an integer of at least 1, got 1.5"),
        ({"targets": -1}, "targets must be an integer of at least 0, got -1"),
        ({"targets": True}, "targets must be an integer of at least 0, got True"),
        ({"alpha_max": 1.1}, r"alpha_max must lie in \[0, 1\], got 1.1"),
        ({"eta": 0.9}, "eta must be at least 1, to reach the boundary, got 0.9"),
        ({"beta": 1.0}, "beta must lie between 0 and 1, got 1"),
        ({"beta": 0.0}, "beta must lie between 0 and 1, got 0"),
        ({"norm": "l3"}, "norm must be one of"),
        ({"targeted": True, "targets": 2}, "set targets=0"),
    ],
    ids=str,
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FAB(**arguments)


def test_a_model_without_gradient_is_an_error(net, batch):
    with pytest.raises(ValueError, match="does not depend on its input"):
        run(FAB(), lambda x: net(x).detach(), batch[0], net(batch[0]).argmax(1))
