import json
import math

import pytest
import torch

from lightning_advreg.evaluation import AttackResult, CurveResult, Flag, Rate, RobustnessReport


def report(**changes):
    two = AttackResult(
        attack={"attack": "AutoAttack", "eps": 0.1},
        robust=Rate(4, 10),
        stages={"apgd": Rate(5, 10), "square": Rate(4, 10)},
        perturbation={"mean": 0.05, "median_all": math.inf, "q25": math.nan, "found": 4, "total": 8},
        seconds={"apgd": 1.26, "square": 2.0},
    )
    one = AttackResult({"attack": "FGSM"}, Rate(6, 10), {"fgsm": Rate(6, 10)}, {"found": 2}, {"fgsm": 0.5})
    parts = {
        "clean": Rate(8, 10),
        "attacks": {"aa": two, "fgsm": one},
        "worst_case": Rate(3, 10),
        "per_class": ((Rate(8, 10), Rate(3, 10)), (Rate(0, 0), Rate(0, 0))),
        "curve": CurveResult({"attack": "APGD"}, "linf", (0.0, 0.1), (Rate(8, 10), Rate(4, 10)), 7.0),
        "flags": (Flag("black_box", 0.05, 0.002, "Look."),),
        "x_adv": torch.rand(10, 1, 2, 2),
    }
    return RobustnessReport(**{**parts, **changes})


def test_a_rate_has_its_wilson_interval():
    # worked out from the formula, with z = 1.959964: centre 0.330344, half width 0.294121
    assert Rate(1, 5).accuracy == 0.2
    assert Rate(1, 5).interval == pytest.approx((0.036223, 0.624465), abs=1e-5)
    assert Rate(0, 5).interval[0] == 0 and Rate(5, 5).interval[1] == 1
    plain = {"accuracy": 0.2, "interval": list(Rate(1, 5).interval), "correct": 1, "images": 5}
    assert Rate(1, 5).as_dict() == plain


def test_no_images_have_no_accuracy():
    assert math.isnan(Rate(0, 0).accuracy)
    assert Rate(0, 0).as_dict() == {"accuracy": None, "interval": [0.0, 1.0], "correct": 0, "images": 0}


def test_the_report_goes_through_json_as_it_is():
    plain = report().as_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert list(plain) == ["clean", "worst_case", "attacks", "per_class", "curve", "gradient_masking"]
    attack = plain["attacks"]["aa"]
    assert attack["perturbation"] == {"mean": 0.05, "median_all": None, "q25": None, "found": 4, "total": 8}
    assert [stage["correct"] for stage in attack["stages"].values()] == [5, 4]
    assert attack["attack"] == {"attack": "AutoAttack", "eps": 0.1}
    assert [point["eps"] for point in plain["curve"]["points"]] == [0, 0.1]
    assert [point["correct"] for point in plain["curve"]["points"]] == [8, 4]
    assert [entry["class"] for entry in plain["per_class"]] == [0, 1]
    assert plain["per_class"][1]["robust"]["accuracy"] is None
    assert plain["gradient_masking"] == [{"name": "black_box", "value": 0.05, "threshold": 0.002, "message": "Look."}]


def test_what_was_not_measured_differs_from_what_found_nothing():
    assert report(flags=None).as_dict()["gradient_masking"] is None
    assert report(flags=()).as_dict()["gradient_masking"] == []
    plain = report(curve=None)
    assert plain.as_dict()["curve"] is None and plain.timings()["curve"] is None


def test_times_are_apart_from_results():
    times = {"attacks": {"aa": {"apgd": 1.26, "square": 2.0}, "fgsm": {"fgsm": 0.5}}, "curve": 7.0}
    assert report().timings() == times
    assert "seconds" not in json.dumps(report().as_dict())


def test_a_row_for_each_attack_and_stage():
    rows = report().rows()
    assert [row["attack"] for row in rows] == ["none", "aa: apgd", "aa: square", "aa", "fgsm", "worst case"]
    assert [row["accuracy"] for row in rows] == [0.8, 0.5, 0.4, 0.4, 0.6, 0.3]
    assert [row.get("seconds") for row in rows] == [None, 1.3, 2.0, 3.3, 0.5, None]
    low, high = (100 * bound for bound in Rate(3, 10).interval)
    assert rows[-1]["95 %"] == f"{low:.1f} to {high:.1f}" and rows[-1]["images"] == 10
    alone = {"aa": report().attacks["aa"]}
    assert [row["attack"] for row in report(attacks=alone).rows()] == ["none", "aa: apgd", "aa: square", "aa"]
