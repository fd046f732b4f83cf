"""APGD: which images it passes to the network, what it returns, targets, draws and larger balls."""

import pytest
import torch
from torch import nn

from lightning_advreg.attacks.apgd import APGD
from lightning_advreg.attacks.base import SearchAttack
from lightning_advreg.attacks.threat import ball

P = {"linf": torch.inf, "l2": 2, "l1": 1}


def run(attack, model, x, y, **arguments):
    """Search without the evaluation around it, which would sort out images and confirm successes."""
    return SearchAttack.__call__(attack, model, x, y, **arguments)


class Recording:
    def __init__(self, model):
        self.model, self.batches = model, []

    def __call__(self, x):
        self.batches.append(x.detach().clone())
        return self.model(x)

    @property
    def sizes(self):
        return [len(batch) for batch in self.batches]


@pytest.fixture
def trained(net):
    """The untrained network with labels it agrees with, so that images stand until they are attacked."""
    nn.init.normal_(net[-1].weight)
    x = torch.rand(30, 3, 6, 6)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def standing(net, x_adv, y):
    with torch.no_grad():
        return net(x_adv).argmax(1) == y


def test_a_targeted_attack_reaches_its_target(trained):
    net, x, y = trained
    target = (y + 1) % 6
    x_adv = run(APGD(norm="l2", eps=2.0, steps=30, targeted=True), net, x, target)
    with torch.no_grad():
        hit = net(x_adv).argmax(1) == target
        # those that did not arrive came closer all the same
        own = [net(z).log_softmax(1).gather(1, target.unsqueeze(1)).squeeze(1) for z in (x, x_adv)]
    assert hit.any() and (own[1] > own[0]).all()


# runs and survivors


class Ladder:
    """Logits ``[pixel sum needed, pixel]``: image i falls where its pixel is above a half."""

    def __call__(self, x):
        return torch.cat([torch.full_like(x, 0.5), x, x - 0.3, x - 0.7], 1)


def test_passes_of_a_run():
    model = Recording(Ladder())
    x, y = torch.full((3, 1), 0.05), torch.zeros(3, dtype=torch.long)
    run(APGD(steps=7, eps=0.1), model, x, y)
    assert model.sizes == [3] * 8
    model = Recording(Ladder())
    run(APGD(steps=10, eps=0.1, norm="l1"), model, x, y)
    assert model.sizes == [3] * 13  # each phase looks at its own start


def test_images_leave_when_they_fall_and_restarts_attack_the_others():
    x, y = torch.tensor([[0.05], [0.9], [0.45]]), torch.zeros(3, dtype=torch.long)
    model = Recording(Ladder())
    x_adv = run(APGD(steps=5, restarts=2, eps=0.1, seed=0), model, x, y)
    assert model.sizes[0] == 3 and model.sizes[1] <= 2 and model.sizes[2:] == [1] * 10
    assert (x_adv[1:] > 0.5).all() and x_adv[0].item() == pytest.approx(0.15)


def test_success_does_not_depend_on_leaving(trained):
    net, x, y = trained
    attack = {"eps": 0.04, "steps": 20, "seed": 1}
    counts, stands = [], []
    for stop in (True, False):
        model = Recording(net)
        stands.append(standing(net, run(APGD(**attack, stop_at_success=stop), model, x, y), y))
        counts.append(sum(model.sizes))
    assert torch.equal(*stands) and 0 < stands[0].sum() < len(x)
    assert counts[1] == 21 * len(x) and counts[0] < counts[1]


def test_without_stopping_the_result_is_the_highest_loss_of_all_runs(wavy):
    x, y = torch.rand(20, 12), torch.arange(20) % 5
    model = Recording(wavy)
    x_adv = run(APGD(steps=12, restarts=3, eps=0.3, seed=0, stop_at_success=False), model, x, y)
    seen = torch.stack([nn.functional.cross_entropy(wavy(batch), y, reduction="none") for batch in model.batches])
    assert seen.shape == (39, 20)
    assert torch.equal(nn.functional.cross_entropy(wavy(x_adv), y, reduction="none"), seen.amax(0))
    assert len((seen.argmax(0) // 13).unique()) == 3


def test_images_that_stand_come_back_with_their_highest_loss(wavy):
    def confident(x):
        return wavy(x) + 40 * nn.functional.one_hot(torch.tensor(0), 5)

    x, y = torch.rand(20, 12), torch.zeros(20, dtype=torch.long)
    model = Recording(confident)
    x_adv = run(APGD(steps=12, restarts=2, eps=0.3, loss="margin"), model, x, y)

    def margin(x):
        logits = confident(x)
        return logits[:, 1:].amax(1) - logits[:, 0]

    assert torch.equal(margin(x_adv), torch.stack([margin(batch) for batch in model.batches]).amax(0))


def test_a_batch_is_attacked_like_its_images_one_by_one(trained):
    net, x, y = trained
    x = x.double()
    net = net.double()
    for norm, eps in (("linf", 0.04), ("l2", 0.3), ("l1", 3.0)):
        attack = APGD(norm=norm, eps=eps, steps=20, seed=None)
        start = ball(norm, x, eps).random_start()
        whole = attack._climb(attack._objective(net, x, y), ball(norm, x, eps), start, 20)
        for i in (0, 7):
            part = slice(i, i + 1)
            alone = attack._climb(attack._objective(net, x[part], y[part]), ball(norm, x[part], eps), start[part], 20)
            torch.testing.assert_close(whole.best[part], alone.best, atol=1e-9, rtol=0)


# targets


@pytest.mark.parametrize("restarts", [1, 2])
def test_each_run_aims_at_the_next_likely_wrong_class(restarts):
    # a model of four constant-slope classes, whose logits depend on pixels of their own
    bias = torch.tensor([0.0, 9.0, 3.0, 5.0])
    model = Recording(lambda x: x + bias)
    x, y = torch.full((1, 4), 0.5), torch.tensor([1])
    run(APGD(eps=0.1, steps=3, loss="ce", targets=3, restarts=restarts), model, x, y)
    assert model.sizes == [1] * (1 + 3 * 4 * restarts)
    ends = torch.cat(model.batches)[4::4]
    raised = [(end > x).squeeze(0).nonzero().flatten().tolist() for end in ends]
    assert raised == [[aim] for aim in (3, 2, 0) for _ in range(restarts)]  # and never the label


def test_a_target_is_only_a_direction():
    # aimed at class 2, the image ends in class 1, which counts
    model = Recording(lambda x: torch.cat([0.6 - x, x - 0.1, x - 0.9 + 0 * x], 1))
    x, y = torch.tensor([[0.3], [0.0]]), torch.zeros(2, dtype=torch.long)
    x_adv = run(APGD(eps=0.1, steps=5, targets=2, loss="margin", seed=0), model, x, y)
    assert x_adv[0] > 0.35 and x_adv[1].item() == pytest.approx(0.1)
    assert model.sizes[0] == 2 and model.sizes[-1] == 1


def test_targets_are_stronger_than_one_direction(trained):
    net, x, y = trained
    attack = {"eps": 0.03, "steps": 20}
    one, many = (standing(net, run(APGD(**attack, **extra), net, x, y), y) for extra in ({}, {"targets": 5}))
    assert many.sum() <= one.sum()


def test_too_many_targets_are_an_error():
    weight, x, y = torch.randn(10, 2), torch.rand(2, 10), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"targets=2 asks for more.*2 classes; use targets=1"):
        run(APGD(targets=2), lambda x: x @ weight, x, y)
    run(APGD(targets=1, steps=2, loss="margin"), lambda x: x @ weight, x, y)
    with pytest.raises(ValueError, match="'dlr' needs at least 4 classes, the network gives 2; use loss='margin'"):
        run(APGD(targets=1, loss="dlr"), lambda x: x @ weight, x, y)


# draws, larger balls, errors


def test_draws_average_gradients_and_predictions():
    model = Recording(lambda x: Ladder()(x + 0.2 * torch.randn(())))
    x, y = torch.full((2, 1), 0.1), torch.zeros(2, dtype=torch.long)
    run(APGD(eps=0.1, steps=4, draws=3), model, x, y)
    assert len(model.batches) == 5 * 3

    # one draw in four gets the image wrong, four together do not
    calls = iter(range(1000))
    model = Recording(lambda x: Ladder()(x + (0.6 if next(calls) % 4 == 0 else 0.0)))
    run(APGD(eps=0.1, steps=4, draws=4), model, x, y)
    assert model.sizes == [2] * 20


@pytest.mark.parametrize("norm", P)
def test_larger_balls_first_and_the_smallest_at_last(norm):
    x, y = torch.full((1, 20), 0.5), torch.tensor([0])
    model = Recording(lambda x: torch.stack([x.sum(1) * 0 + 99, x.sum(1)], 1))
    x_adv = run(APGD(norm=norm, eps=0.1, steps=20, larger_eps=True, loss="margin"), model, x, y)
    moved = [torch.linalg.vector_norm(batch - x, P[norm]).item() for batch in model.batches]
    assert len(moved) == 7 + 7 + 9
    assert max(moved[:7]) == pytest.approx(0.3, rel=1e-4) and max(moved[7:14]) == pytest.approx(0.2, rel=1e-4)
    # each phase starts at the best point of the one before, projected
    assert moved[7] == pytest.approx(0.2, rel=1e-4) and moved[14] == pytest.approx(0.1, rel=1e-4)
    assert max(moved[14:]) == pytest.approx(0.1, rel=1e-4)
    assert torch.linalg.vector_norm(x_adv - x, P[norm]) <= 0.1 + 1e-6


def test_a_success_outside_eps_does_not_count():
    x, y = torch.tensor([[0.3]]), torch.tensor([0])
    model = Recording(Ladder())
    x_adv = run(APGD(norm="l1", eps=0.1, steps=20), model, x, y)
    assert max(batch.item() for batch in model.batches) == pytest.approx(0.6)
    assert x_adv.item() == pytest.approx(0.4)


def test_no_wait_for_the_device_in_training(net, batch, monkeypatch):
    waits = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero", "cpu"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, *a, _n=name, _o=original: (waits.append(_n), _o(self, *a))[1]
        )
    for norm in P:
        run(APGD(norm=norm, eps=0.1, steps=10, restarts=2, stop_at_success=False, check=False), net, *batch)
    run(APGD(steps=10, targets=2, stop_at_success=False, check=False), net, *batch)
    assert waits == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("norm", P)
def test_result_is_feasible_in_corners_of_the_box(net, batch, norm, dtype):
    x, y = batch[0].to(dtype), batch[1]
    x[0], x[1] = 0, 1
    x_adv = run(APGD(norm=norm, eps=0.05, steps=10, stop_at_success=False), net.to(dtype), x, y)
    moved = torch.linalg.vector_norm((x_adv.double() - x.double()).flatten(1), P[norm], dim=1)
    assert x_adv.dtype == dtype and (moved <= 0.05 + 1e-6).all() and (moved > 0).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"draws": 0}, "draws must be an integer of at least 1, got 0"),
        ({"targets": -1}, "targets must be an integer of at least 0, got -1"),
        ({"targets": True}, "targets must be an integer of at least 0, got True"),
        ({"rho": 1.5}, "rho must be at most 1, got 1.5"),
        ({"targets": 2, "targeted": True}, "set targets=0 or targeted=False"),
        ({"targets": 2, "loss": "kl"}, "'kl' has no targeted form"),
        ({"eps": -1}, "eps must be at least 0"),
        ({"norm": "l3"}, "norm must be one of linf, l2, l1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        APGD(**arguments)
