import json
import math
import warnings

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import APGD, FGSM, NFGSM, PGD, AutoAttack, DeepFool
from lightning_advreg.evaluation import CurveSettings, evaluate_robustness, robustness

from ..attacks.test_suite import Recording, Sensitive, known, network

SMALL = AutoAttack(eps=0.02, steps=5, queries=20)


def at(places, pixel=1.0):
    """Beats the images whose second pixel is one of these, with a first pixel of its own."""

    def attack(model, x, y):
        x_adv = x.clone()
        for row in range(len(x)):
            if round(x[row, 0, 0, 1].item(), 2) in places:
                x_adv[row] = torch.tensor([[[pixel, 0.0]]])
        return x_adv

    return attack


@pytest.mark.parametrize("chunk", [512, 3, 2])
def test_rates_on_images_whose_margins_are_known(monkeypatch, chunk):
    monkeypatch.setattr(robustness, "_CHUNK", chunk)
    # Linf needs half of a margin
    x, y = known([0.11, 0.31, 0.51, -0.1, 0.71])
    attacks = {"small": FGSM(eps=0.1), "large": FGSM(eps=0.3)}
    report = evaluate_robustness(Sensitive(), x, y, attacks, masking=False)
    assert (report.clean.correct, report.clean.images) == (4, 5)
    small, large = report.attacks["small"], report.attacks["large"]
    assert (small.robust.correct, small.robust.images) == (3, 5)
    assert (large.robust.correct, large.robust.images) == (1, 5)
    assert (report.worst_case.correct, report.worst_case.images) == (1, 5)
    # the formula of Wilson, by hand
    z, p, n = 1.959964, 0.2, 5
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    assert report.worst_case.interval == pytest.approx((centre - half, centre + half), abs=1e-6)
    # sizes over the four images that were right: one was found within 0.1, three within 0.3
    assert (small.perturbation["found"], small.perturbation["total"]) == (1, 4)
    assert small.perturbation["max"] == pytest.approx(0.1, abs=1e-6)
    assert small.perturbation["median_all"] == math.inf
    assert large.perturbation["found"] == 3 and large.perturbation["mean"] == pytest.approx(0.3, abs=1e-6)
    assert small.stages == {"small": small.robust} and small.seconds["small"] > 0
    assert report.curve is None and report.flags is None


def test_the_worst_case_counts_images_that_fall_to_either_attack():
    x, y = known([0.2, 0.4, 0.6, 0.8])
    attacks = {"one": at([0.6, 0.7], 0.9), "two": at([0.7, 0.8], 1.0)}
    report = evaluate_robustness(Sensitive(), x, y, attacks, masking=False)
    assert [result.robust.correct for result in report.attacks.values()] == [2, 2]
    assert report.worst_case.correct == 1
    # and its images are those of the first attack that each fell to
    assert report.x_adv[:3, 0, 0, 0].tolist() == [pytest.approx(0.9), pytest.approx(0.9), 1]
    assert torch.equal(report.x_adv[3], x[3])


def test_classes_are_counted_apart():
    x, y = known([0.11, 0.31, 0.71, -0.1, -0.5])
    # the last two are right as class 0, and the last withstands more than 0.2
    y = torch.tensor([1, 1, 1, 0, 0])
    report = evaluate_robustness(Sensitive(), x, y, FGSM(eps=0.2), masking=False)
    clean, robust = zip(*report.per_class, strict=True)
    assert [(rate.correct, rate.images) for rate in clean] == [(2, 2), (3, 3)]
    assert [(rate.correct, rate.images) for rate in robust] == [(1, 2), (1, 3)]
    assert list(report.attacks) == ["fgsm"]


def test_a_suite_is_told_by_stage():
    model, x, y = network()
    result = evaluate_robustness(model, x, y, SMALL, masking=False).attacks["autoattack"]
    assert list(result.stages) == ["apgd-ce", "apgd-t", "fab-t", "square"] == list(result.seconds)
    correct = [rate.correct for rate in result.stages.values()]
    assert correct == sorted(correct, reverse=True) and 0 < correct[-1] == result.robust.correct < 40
    assert result.attack["attack"] == "AutoAttack" and result.attack["steps"] == 5


def test_a_success_on_the_way_counts():
    """A step of 0.3 lands on the far side of a narrow region that the attack looks at first."""

    class Narrow(nn.Module):
        def forward(self, x):
            inside = ((x - 0.55).abs() < 0.02).flatten(1).all(1)
            slope = x.flatten(1)[:, :1] * 0.1
            return torch.cat([slope + inside.float().unsqueeze(1), torch.full_like(slope, 0.2)], 1)

    x, y = torch.full((1, 1, 1, 1), 0.35), torch.tensor([1])
    pgd = PGD(eps=0.3, step_size=0.2, steps=2, random_start=False)
    assert Narrow()(pgd(Narrow(), x, y)).argmax(1).item() == 1
    report = evaluate_robustness(Narrow(), x, y, pgd, masking=False)
    assert report.worst_case.correct == 0
    assert report.attacks["pgd"].attack["stop_at_success"] is True


def test_an_attacks_own_batch_size_comes_first():
    model, x, y = network()
    sizes = []
    model.register_forward_hook(lambda module, args, out: sizes.append(len(args[0])))
    recording = Recording(calls=[], bound=-1)
    attacks = {"own": APGD(eps=0.001, steps=1, batch_size=3), "other": recording}
    evaluate_robustness(model, x, y, attacks, masking=False, batch_size=8, acceleration=None)
    assert [len(pixels) for _, pixels, _ in recording.calls] == [8] * 5
    assert 3 in sizes and set(sizes) <= {1, 3, 8}


def test_two_classes():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), torch.rand(12, 2, 2, 2)
    y = model(x).argmax(1)
    with pytest.warns(UserWarning, match=r"2 classes; AutoAttack takes the margin loss instead, with 1 target\."):
        report = evaluate_robustness(model, x, y, AutoAttack(eps=0.05, steps=5, queries=20))
    assert report.flags == () and 0 < report.worst_case.correct < 12
    # a linear network withstands what is further away than eps times the L1 norm of the difference of weights
    weight = model[1].weight[0] - model[1].weight[1]
    margin = (model(x)[:, 0] - model(x)[:, 1]).abs()
    away = (margin > 0.05 * weight.abs().sum() + 1e-4).sum().item()
    assert away <= report.worst_case.correct


@pytest.mark.filterwarnings("error")
def test_nothing_is_right_from_the_start():
    x, y = known([-0.1, -0.2, -0.3])
    recording = Recording(calls=[])
    attacks = {"aa": PGD(eps=0.1), "other": recording}
    report = evaluate_robustness(Sensitive(), x, y, attacks, curve=CurveSettings(eps=[0, 0.1]))
    assert report.clean.correct == report.worst_case.correct == 0
    # the logits of this network are its pixels, two that sum to 1
    assert [flag.name for flag in report.flags] == ["softmax_outputs"]
    assert [rate.correct for rate in report.curve.rates] == [0, 0] and recording.calls == []
    assert torch.equal(report.x_adv, x)
    perturbation = json.loads(json.dumps(report.as_dict(), allow_nan=False))["attacks"]["aa"]["perturbation"]
    assert perturbation["mean"] is None and perturbation["total"] == 0


def test_one_image():
    model, x, y = network()
    report = evaluate_robustness(
        model, x[:1], y[:1], SMALL, curve=CurveSettings(eps=[0, 0.01], attack=APGD(eps=0.02, steps=5))
    )
    assert (report.clean.correct, report.clean.images) == (1, 1)
    assert report.attacks["autoattack"].perturbation["total"] == 1
    assert report.flags == ()
    assert (
        json.loads(json.dumps(report.as_dict(), allow_nan=False))["per_class"][(y[0].item() + 1) % 5]["clean"]["images"]
        == 0
    )


def test_an_attack_without_a_limit_is_told_by_its_distances():
    x, y = known([0.2, 0.6])
    report = evaluate_robustness(Sensitive(), x, y, {"deepfool": DeepFool(norm="l2")}, masking=False)
    size = report.attacks["deepfool"].perturbation
    assert report.worst_case.correct == 0
    assert (size["min"], size["max"]) == (pytest.approx(0.2 / 2**0.5, rel=0.05), pytest.approx(0.6 / 2**0.5, rel=0.05))


def test_pgd_that_is_led_astray_is_flagged():
    class Ridge(nn.Module):
        """The loss of steps towards the near end is a trap; the way out is in the other direction."""

        def forward(self, x):
            pixel = x.flatten(1)[:, :1]
            trap = 0.9 - 4 * (pixel - 0.45).abs()
            out = 6 * (0.5 - pixel) - 0.2
            return torch.cat([torch.maximum(trap, out), torch.ones_like(pixel)], 1)

    x, y = torch.full((20, 1, 1, 1), 0.5), torch.ones(20, dtype=torch.long)
    pgd = PGD(eps=0.3, step_size=0.001, steps=20, random_start=False)
    attacks = {"pgd": pgd, "aa": AutoAttack(eps=0.3, steps=20, queries=50)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = evaluate_robustness(Ridge(), x, y, attacks)
    assert (report.attacks["pgd"].robust.correct, report.attacks["aa"].robust.correct) == (20, 0)
    assert "pgd_gap" in [flag.name for flag in report.flags]


@pytest.mark.parametrize(
    ("attacks", "error", "message"),
    [
        ({}, ValueError, "attacks must name at least one attack"),
        ({"a/b": FGSM()}, ValueError, r"names of attacks must be text without '/' and '\.', .* got 'a/b'"),
        ({"..": FGSM()}, ValueError, r"got '\.\.'"),
        ({"worst_case": FGSM()}, ValueError, "'worst_case' is the name of all attacks together; rename this one"),
        ({"a": "pgd"}, TypeError, r"attacks\['a'\] must be an attack, called as attack\(model, x, y\), got 'pgd'"),
        ({"a": NFGSM()}, ValueError, r"attacks\['a'\] is NFGSM, which leaves its budget and is for training alone"),
        ({"a": FGSM(targeted=True)}, ValueError, r"attacks\['a'\] is targeted, and what it leaves is no accuracy"),
        (DeepFool(), ValueError, r"masking needs an attack with a budget eps > 0 .* or set masking=False"),
        (FGSM(eps=0), ValueError, "masking needs an attack with a budget eps > 0"),
    ],
)
def test_messages_before_anything_is_attacked(attacks, error, message):
    x, y = known([0.1])

    def model(x):
        raise AssertionError("the network was asked")

    with pytest.raises(error, match=message):
        evaluate_robustness(model, x, y, attacks)


def test_messages_of_images_and_labels():
    model, x, y = network()
    with pytest.raises(TypeError, match="images must be floating point"):
        evaluate_robustness(model, x.long(), y, FGSM())
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\]"):
        evaluate_robustness(model, x * 255, y, FGSM())
    with pytest.raises(ValueError, match=r"labels must be in \[0, 5\)"):
        evaluate_robustness(model, x, y + 5, FGSM())
