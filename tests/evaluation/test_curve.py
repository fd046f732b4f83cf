from dataclasses import dataclass

import pytest
import torch

from lightning_advreg.attacks import APGD, FAB, FGSM, PGD, AutoAttack, BoundedAttack, DeepFool
from lightning_advreg.evaluation import CurveSettings, evaluate_robustness

from ..attacks.test_suite import Sensitive, known, network


@dataclass(frozen=True, kw_only=True)
class Direct(BoundedAttack):
    """Takes the whole budget at once, where it hurts most; notes what it was asked."""

    calls: list

    def perturb(self, objective, feasible, factor):
        self.calls.append((round(self.radius, 6), len(objective)))
        return feasible.project(objective.x + self.radius * torch.tensor([1.0, -1.0]))


def curve_of(model, x, y, settings, **kwargs):
    return evaluate_robustness(model, x, y, FGSM(eps=0.01), curve=settings, masking=False, **kwargs).curve


def test_each_budget_is_one_pass_over_the_images_that_withstood_the_smaller_ones():
    # Linf needs half of a margin
    x, y = known([0.11, 0.31, 0.31, 0.51, -0.1, 0.71])
    calls = []
    settings = CurveSettings(eps=[0.3, 0, 0.1, "1/5"], attack=Direct(eps=0.5, calls=calls))
    curve = curve_of(Sensitive(), x, y, settings)
    assert curve.eps == (0, 0.1, 0.2, 0.3) and curve.norm == "linf"
    assert [(rate.correct, rate.images) for rate in curve.rates] == [(5, 6), (4, 6), (2, 6), (1, 6)]
    assert calls == [(0.1, 5), (0.2, 4), (0.3, 2)]
    assert curve.attack["attack"] == "Direct" and curve.seconds > 0


def test_without_a_budget_of_0_there_is_no_clean_point():
    x, y = known([0.11, -0.1])
    curve = curve_of(Sensitive(), x, y, CurveSettings(eps=[0.1], attack=Direct(eps=0.1, calls=[])))
    assert curve.eps == (0.1,) and [rate.correct for rate in curve.rates] == [0]


@pytest.mark.parametrize("attack", [APGD(eps=0.5, steps=5), PGD(eps=0.1, step_size=0.05, steps=3), FAB(eps=1, steps=3)])
def test_the_curve_falls_from_clean_accuracy(attack):
    model, x, y = network()
    y = torch.where(torch.arange(40) < 4, (y + 1) % 5, y)
    curve = curve_of(model, x, y, CurveSettings(eps=[0, 0.005, 0.01, 0.02, 0.3], attack=attack))
    correct = [rate.correct for rate in curve.rates]
    assert correct == sorted(correct, reverse=True) and correct[0] == 36 and 0 < correct[2] < 36
    assert correct[-1] < 5


def test_steps_scale_with_the_budget_and_successes_stay():
    stages = CurveSettings(eps=[0, 0.1, 0.4], attack=PGD(eps=0.2, step_size=0.05, steps=7)).stages()
    assert list(stages) == ["eps=0.1", "eps=0.4"]
    assert [(a.radius, a.step_size, a.steps, a.stop_at_success) for a in stages.values()] == [
        (pytest.approx(0.1), pytest.approx(0.025), 7, True),
        (pytest.approx(0.4), pytest.approx(0.1), 7, True),
    ]


def test_a_curve_around_an_attacks_own_budget():
    settings = CurveSettings.around(PGD(norm="l2", eps=0.5, steps=7))
    assert settings.budgets == (0, 0.125, 0.25, 0.5, 0.75, 1, 2)
    assert settings.attack == PGD(norm="l2", eps=0.5, steps=7) and settings.norm == "l2"
    # no image changes by more than 1
    assert CurveSettings.around(PGD(eps=0.75)).budgets == (0, 0.1875, 0.375, 0.75, 1)
    assert CurveSettings.around(PGD(eps=0.75), ["1/10"]).budgets == (0.1,)


@pytest.mark.parametrize(
    ("attack", "draws"),
    [
        (AutoAttack(norm="l1", eps=12), 1),
        (AutoAttack(norm="l1", eps=12, version="rand"), 20),
        (FAB(norm="l1", eps=12), 1),
    ],
)
def test_apgd_draws_the_curve_of_attacks_that_take_long(attack, draws):
    assert CurveSettings.around(attack).attack == APGD(norm="l1", eps=12, steps=50, draws=draws, seed=None)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: CurveSettings(eps=[]), ValueError, r"different budgets, one above 0 at least, got \[\]"),
        (lambda: CurveSettings(eps=[0]), ValueError, r"one above 0 at least, got \[0\]"),
        (lambda: CurveSettings(eps=["1/10", 0.1]), ValueError, r"different budgets, .* got \['1/10', 0.1\]"),
        (lambda: CurveSettings(eps=[0.1, 0.1 + 1e-9]), ValueError, "different budgets"),
        (lambda: CurveSettings(eps=[-0.1]), ValueError, "eps must be at least 0, got -0.1"),
        (lambda: CurveSettings(eps=0.1), TypeError, r"sequence of budgets, such as \[0, 4/255\], got 0.1"),
        (lambda: CurveSettings(eps="8/255"), TypeError, "got '8/255'"),
        (
            lambda: CurveSettings(eps=[0.1], attack=PGD(eps=0)),
            ValueError,
            "must have a budget eps > 0 to scale, got PGD",
        ),
        (lambda: CurveSettings(eps=[0.1], attack=DeepFool()), ValueError, "must have a budget eps > 0 to scale"),
        (lambda: CurveSettings(eps=[0.1], attack=APGD(targeted=True)), ValueError, "attack of the curve is targeted"),
        (lambda: CurveSettings.around(DeepFool()), ValueError, "must have a budget eps > 0 to scale, got DeepFool"),
        (lambda: CurveSettings.around(lambda model, x, y: x), ValueError, "must have a budget eps > 0 to scale"),
    ],
)
def test_messages(build, error, message):
    with pytest.raises(error, match=message):
        build()
