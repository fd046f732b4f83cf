"""Square against optima that are known, and what each of its queries may and may not do."""

import math

import pytest
import torch

from lightning_advreg.attacks.square import Square
from lightning_advreg.attacks.survivors import Survivors

from .scored import P, Scored, run, zeros

EPS = {"linf": 0.1, "l2": 0.5, "l1": 3.0}
SHAPES = [(1, 8, 8), (3, 5, 4), (10,), (2, 3, 9), (1, 1, 6), (2, 3, 4, 5)]

norms = pytest.mark.parametrize("norm", P)


def smooth(height, width):
    rows, columns = torch.linspace(0, math.pi, height), torch.linspace(0, math.pi, width)
    return (rows.cos().unsqueeze(1) + 0.5 * columns.cos()).unsqueeze(0)


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 3), (10,)], ids=str)
@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("corner", [False, True], ids=["inside", "corner"])
def test_linf_reaches_the_corner_of_ball_and_box(shape, batch, corner):
    slope = torch.randn(shape)
    x = torch.rand(batch, *shape)
    x = x.round() if corner else 0.2 + 0.6 * x
    model = Scored(slope)
    gain = model.score(run(Square(eps=0.1, queries=1200, rescale=True), model, x, zeros(x))) - model.score(x)
    best = model.score((x + 0.1 * slope.sign()).clamp(0, 1)) - model.score(x)
    assert (gain >= 0.97 * best).all() and (gain <= best + 1e-5).all()


@pytest.mark.parametrize(
    ("norm", "shape", "share"), [("l2", (10,), 0.8), ("l2", (1, 9, 9), 0.6), ("l1", (10,), 0.7), ("l1", (1, 9, 9), 0.6)]
)
def test_budgets_go_where_they_pay(norm, shape, share):
    slope = smooth(9, 9) if len(shape) > 1 else torch.randn(shape)
    x = torch.full((4, *shape), 0.5)
    model = Scored(slope)
    x_adv = run(Square(norm=norm, eps=0.4, queries=1500), model, x, zeros(x))
    best = 0.4 * torch.linalg.vector_norm(slope.flatten(), {"l2": 2, "l1": torch.inf}[norm])
    gain = model.score(x_adv) - model.score(x)
    assert (gain >= share * best).all() and (gain <= best * (1 + 1e-5)).all()


@norms
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [1, 7])
def test_no_query_leaves_ball_or_box(norm, shape, batch):
    x = torch.rand(batch, *shape)
    x[0] = x[0].round()
    model = Scored(torch.randn(shape))
    x_adv = run(Square(norm=norm, eps=EPS[norm], queries=150, rescale=True), model, x, zeros(x))
    asked = torch.stack([*model.asked, x_adv])
    assert asked.shape == (151, *x.shape)
    assert asked.min() >= 0 and asked.max() <= 1
    moved = torch.linalg.vector_norm((asked - x).flatten(2).double(), P[norm], dim=2)
    assert (moved <= EPS[norm] + 1e-6).all()
    assert (moved[-1] > 0.3 * EPS[norm]).all()


@norms
def test_the_budget_holds_for_thousands_of_queries(norm):
    # rounding adds up in running sums
    x = torch.rand(3, 3, 6, 6)
    model = Scored(torch.randn(3, 6, 6))
    run(Square(norm=norm, eps=0.3, queries=2000), model, x, zeros(x))
    moved = torch.linalg.vector_norm((torch.stack(model.asked) - x).flatten(2).double(), P[norm], dim=2)
    assert moved.amax() <= 0.3 + 1e-6


@norms
def test_the_result_is_the_best_point_that_was_asked_about(norm):
    x = torch.rand(5, 3, 8, 8)
    model = Scored(torch.randn(3, 8, 8))
    x_adv = run(Square(norm=norm, eps=EPS[norm], queries=80, restarts=2), model, x, zeros(x))
    assert len(model.asked) == 2 * 80
    scores = torch.stack([model.score(asked) for asked in model.asked])
    assert torch.equal(model.score(x_adv), scores.amax(0))
    # each restart begins anew, and some image is best in each
    assert (scores[80] < scores[:80].amax(0)).all()
    assert 0 < (scores.argmax(0) < 80).sum() < 5 or norm != "linf"


@norms
def test_an_image_that_falls_is_asked_about_no_more(norm):
    slope = torch.randn(1, 8, 8)
    x = torch.full((12, 1, 8, 8), 0.5)
    model = Scored(slope)
    reached = model.score(run(Square(norm=norm, eps=EPS[norm], queries=200), model, x, zeros(x)))
    model = Scored(slope, lead=reached.median().item())
    x_adv = run(Square(norm=norm, eps=EPS[norm], queries=200), model, x, zeros(x))
    fallen = 0
    for asked in model.asked:
        assert len(asked) == 12 - fallen
        fallen += int((model.score(asked).double() > model.lead).sum())
    assert 0 < fallen < 12 and len(model.asked) == 200
    assert int((model.score(x_adv).double() > model.lead).sum()) == fallen


@norms
def test_each_image_gets_its_own_best_point_while_others_leave(norm):
    slope, x = torch.randn(1, 8, 8), torch.rand(16, 1, 8, 8)
    model = Scored(slope)
    attack = Square(norm=norm, eps=EPS[norm], queries=40, restarts=3)
    model = Scored(slope, lead=model.score(run(attack, model, x, zeros(x))).median().item())
    x_adv = run(attack, model, x, zeros(x))
    best = torch.full((16,), -torch.inf)
    for asked in model.asked:
        owner = torch.cdist(asked.flatten(1), x.flatten(1)).argmin(1)
        best[owner] = torch.maximum(best[owner], model.score(asked))
    torch.testing.assert_close(model.score(x_adv), best, atol=1e-5, rtol=0)
    assert len(model.asked[0]) > len(model.asked[45]) > len(model.asked[-1]) > 0


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_rounding_in_one_direction_stays_within_the_budget(norm):
    # equal pixels round alike
    x, eps = torch.full((40, 3, 32, 32), 0.75), torch.linspace(0.05, 0.15, 40)
    model = Scored(torch.randn(3, 32, 32))
    run(Square(norm=norm, queries=1), model, x, zeros(x), eps=eps)
    moved = torch.linalg.vector_norm((model.asked[0] - x).flatten(1).double(), P[norm], dim=1)
    assert (moved <= eps).all() and (moved > 0.99 * eps).all()


@norms
def test_images_that_leave_late_keep_what_fooled_the_model(norm, monkeypatch):
    # as on a device where counting is slow
    begin = Survivors.__init__

    def patient(self, objective, feasible):
        begin(self, objective, feasible)
        self._every = 7

    monkeypatch.setattr(Survivors, "__init__", patient)
    slope = torch.randn(3, 6, 6)
    x = torch.rand(20, 3, 6, 6)
    score = Scored(slope).score
    model = Scored(slope, lead=(score(x).mean() + 2).item())
    x, before = x[score(x) < model.lead - 0.5], len(x)
    x_adv = run(Square(norm=norm, eps=EPS[norm], queries=45, restarts=2), model, x, zeros(x))
    hits = torch.tensor([bool((score(asked) > model.lead).any()) for asked in model.asked])
    assert 0 < (score(x_adv) > model.lead).sum() < len(x) < before and hits.any()
    moved = torch.linalg.vector_norm((x_adv - x).flatten(1), P[norm], dim=1)
    assert (moved <= EPS[norm] + 1e-6).all()
    assert len(model.asked) == 90
    # all that ever fooled the model are among the results
    fooled = {tuple(image.flatten().tolist()) for image in x_adv[score(x_adv) > model.lead]}
    assert fooled <= {tuple(i.flatten().tolist()) for asked in model.asked for i in asked[score(asked) > model.lead]}
    assert len(model.asked[-1]) >= len(x) - len(fooled)


@norms
def test_a_targeted_attack_reaches_its_target(norm):
    x = torch.full((5, 1, 8, 8), 0.5)
    weight = torch.randn(64, 3)

    def model(z):
        return (z.flatten(1) - 0.5) @ weight

    for target in range(3):
        labels = torch.full((5,), target)
        x_adv = run(Square(norm=norm, eps=EPS[norm], queries=300, targeted=True), model, x, labels)
        assert (model(x_adv).argmax(1) == target).all()


@norms
def test_a_budget_per_image_binds(norm):
    x, factors = torch.full((4, 3, 6, 6), 0.5), torch.tensor([0.0, 0.3, 1.0, 1.5])
    model = Scored(torch.randn(3, 6, 6))
    eps = factors * EPS[norm]
    x_adv = run(Square(norm=norm, queries=200), model, x, zeros(x), eps=eps)
    moved = torch.linalg.vector_norm((x_adv - x).flatten(1), P[norm], dim=1)
    assert torch.equal(x_adv[0], x[0])
    assert (moved <= eps + 1e-6).all() and (moved >= 0.9 * eps).all()


@norms
@pytest.mark.parametrize("loss", ["ce", "margin", "kl"])
def test_every_loss_and_layout_works(norm, loss):
    x = torch.rand(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(108, 2) / 4
    y = (x.flatten(1) @ weight).argmax(1)
    attack = Square(norm=norm, eps=EPS[norm], queries=60, loss=loss)
    x_adv = run(attack, lambda z: z.flatten(1) @ weight, x, y)
    before, after = ((z.flatten(1) @ weight).softmax(1).gather(1, y.unsqueeze(1)) for z in (x, x_adv))
    # away from the clean prediction, whatever the label
    assert ((after - before).abs() > 0.01).all() if loss == "kl" else (after < before - 0.01).all()


def test_a_call_repeats_and_leaves_the_callers_generator():
    x = torch.rand(9, 1, 8, 8)
    weight = torch.randn(64, 2)

    def model(z):
        return (z.flatten(1) - 0.5) @ weight

    y = model(x).argmax(1)
    attack = Square(eps=0.2, queries=30, batch_size=4)
    state = torch.get_rng_state()
    first, second = attack(model, x, y), attack(model, x, y)
    assert torch.equal(first, second) and torch.equal(state, torch.get_rng_state())
    assert (model(first).argmax(1) != y).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": 0}, r"queries must be an integer of at least 1, got 0"),
        ({"restarts": 0}, r"restarts must be an integer of at least 1, got 0"),
        ({"p_init": 0}, r"p_init must be above 0, got 0"),
        ({"p_init": 1.5}, r"p_init must be at most 1, got 1.5"),
        ({"loss": "nll"}, r"loss must be one of ce, margin, dlr, kl, got 'nll'"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Square(**arguments)
