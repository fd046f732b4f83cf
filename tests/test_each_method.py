"""The benchmark of each method: it covers the library, its rows run, and its files are what the pages read."""

import importlib
import inspect
import json
from pathlib import Path

import pytest
import torch

from benchmarks.each_method import __main__ as program
from benchmarks.each_method import adversarial, attacks, gans, page, regularised, regularisers
from benchmarks.each_method.study import Column, Record, Row, Study
from lightning_advreg.files.weights import export_weights
from lightning_advreg.networks import MNISTConvNet

NOT_A_METHOD = {
    "objectives": {"Crafted", "GANLoss", "Objective", "ObjectiveOutput"},  # bases and values
    "perturbations": {"Climb", "WeightPerturbation"},
    "penalties": {
        "CriticPass",
        "CriticPenalty",
        "InputPenalty",
        "Penalty",
        "PenaltyValue",
        "TrainingPass",
        "WeightPenalty",
    },
    "constraints": {
        *("Constraint", "Projected", "Projection", "lipschitz_bound"),
        "Budget",  # refuses a network, and does nothing to one that it accepts
        "LipschitzReport",  # measures, and limits nothing
        "AdaptiveBound",  # a bound, in the table of MaxNorm
        "CubicSparsity",  # a schedule, in the table of MagnitudePruning
    },
    "augmentations": {"Augmentation", "DiscriminatorAugmentation"},
}
"""What is exported and has no file of its own."""


class Counted:
    """A setting whose figures are known and whose runs are counted."""

    columns = (Column("clean", "clean", "%"), Column("cost", "time", "x"))
    options = ""
    title = "Few training images"

    def __init__(self, task="counting"):
        self.task, self.runs = task, []

    def prepare(self, baseline):
        pass

    def measure(self, row, seed):
        self.runs.append((row.name, seed))
        return {"clean": 10.0 * seed + row.build(seed)}

    def remark(self, rows):
        return ""

    def cost(self, baseline):
        return 2.0


def study(name="Some", task="counting", names=("none", "some")):
    return Study(
        name, Counted(task), tuple(Row(row, lambda seed, place=place: place) for place, row in enumerate(names))
    )


@pytest.mark.parametrize("room", list(NOT_A_METHOD))
def test_every_method_of_a_room_is_measured_or_listed_with_a_reason(room):
    exported = set(importlib.import_module(f"lightning_advreg.{room}").__all__)
    measured = {one.name for one in program.everything(None, Path("data"))}
    assert NOT_A_METHOD[room] <= exported, "an exception that is no longer exported"
    assert exported - NOT_A_METHOD[room] <= measured
    assert not NOT_A_METHOD[room] & measured


def test_each_class_is_used_in_the_study_that_bears_its_name():
    # a row per class name would not do: the class must be in what the setting is given
    settings = {"objective", "loss", "weight_perturbation", "penalties", "constraints", "critic_penalties"}
    rooms = ("objectives", "perturbations", "penalties", "constraints")
    classes = {name for room in rooms for name in importlib.import_module(f"lightning_advreg.{room}").__all__}
    looked_at = 0
    for one in [*adversarial.studies(), *regularisers.studies(), *gans.studies()]:
        if one.name not in classes or one.name in ("PGDAT", "NonSaturating"):
            continue
        found = set()
        for row in one.rows[1:]:
            if one.name == "HAT":
                continue  # it trains a helper first
            for key, value in row.build(0).items():
                if key in settings:
                    found |= {type(each).__name__ for each in (value if isinstance(value, list) else [value])}
        looked_at += 1
        assert one.name == "HAT" or one.name in found
    assert looked_at > 35


def test_names_of_files_are_distinct():
    names = [one.name for one in program.everything(None, Path("data"))]
    assert len(set(name.lower() for name in names)) == len(names)


def test_a_file_has_what_the_pages_read(tmp_path):
    program.record(study(), 3, tmp_path)
    found = json.loads((tmp_path / "Some.json").read_text())
    assert found["method"] == "Some" and found["seeds"] == [3]
    assert found["command"] == "python -m benchmarks.each_method --only Some"
    assert set(found["versions"]) == {"torch", "lightning", "lightning_advreg"}
    assert found["columns"][0] == {"key": "clean", "title": "clean", "unit": "%"}
    assert found["rows"] == [
        {"name": "none", "values": {"clean": [30.0], "cost": [1.0]}},
        {"name": "some", "values": {"clean": [31.0], "cost": [2.0]}},
    ]


def test_seeds_are_added_and_not_run_again(tmp_path):
    one = study()
    for seed in (0, 1, 0):
        program.record(one, seed, tmp_path)
    assert one.setting.runs == [("none", 0), ("some", 0), ("none", 1), ("some", 1)]
    assert Record(one, tmp_path).values("some", 1) == {"clean": 11.0, "cost": 2.0}
    assert not list(tmp_path.glob("*.draft"))


def test_a_note_is_mended_without_a_run(tmp_path):
    one = study()
    program.record(one, 0, tmp_path)
    program.record(Study(one.name, one.setting, one.rows, "Masked."), 0, tmp_path)
    found = json.loads((tmp_path / "Some.json").read_text())
    assert (found["note"], found["seeds"], len(one.setting.runs)) == ("Masked.", [0], 2)


def test_a_baseline_is_run_once_for_a_setting_and_a_seed(tmp_path):
    first, second, elsewhere = study("A"), study("B", names=("none", "other")), study("C", task="something else")
    for one in (first, second, elsewhere):
        program.record(one, 0, tmp_path)
    assert second.setting.runs == [("other", 0)]
    assert elsewhere.setting.runs == [("none", 0), ("some", 0)]
    assert Record(second, tmp_path).values("none", 0) == Record(first, tmp_path).values("none", 0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (study(task="longer"), "Some.json has task 'counting'"),
        (study(names=("none", "more")), "Some.json has the rows"),
    ],
)
def test_seeds_of_different_settings_are_not_mixed(tmp_path, other, message):
    program.record(study(), 0, tmp_path)
    with pytest.raises(ValueError, match=message):
        program.record(other, 1, tmp_path)


def test_a_row_that_pgd_alone_finds_better_is_named():
    def row(name, pgd50, worst):
        return {"name": name, "values": {"pgd50": [pgd50, pgd50], "worst": [worst, worst]}}

    remark = adversarial.AdversarialTraining().remark
    rows = [row("baseline", 40, 35), row("masked", 46, 33), row("better", 46, 36), row("alike", 41, 34)]
    assert remark(rows).endswith("a sign of gradient masking: masked.")
    assert remark([*rows[:1], *rows[2:]]) == ""


def test_rows_of_one_name_are_refused():
    with pytest.raises(ValueError, match="rows of Some must have different names"):
        study(names=("none", "none"))


def test_the_page_shows_each_file_with_mean_and_deviation(tmp_path):
    one = study()
    for seed in (0, 1):
        program.record(one, seed, tmp_path)
    text = page.text(tmp_path, [one, study("Absent")])
    assert "## Few training images\n" in text and "### Some\n" in text and "Absent" not in text
    assert "| some | 6.00 ± 7.07 | 2.00 ± 0.00 |" in text
    assert page.cell([None, None]) == "–"  # noqa: RUF001


def test_a_page_of_nothing_is_an_error(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"holds no measurements; run python -m benchmarks\.each_method first\."
    ):
        page.text(tmp_path, [study()])


@pytest.mark.parametrize("name", ["FreeAT", "WeightAverage", "AverageOverAttacks"])
def test_adversarial_rows_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial, "WARMUP", 0)
    small = {"epochs": 1, "images": 20, "pace_epochs": 1}
    chosen = adversarial.studies(
        adversarial.AdversarialTraining(**small), adversarial.AdversarialTraining(**small, l2=True)
    )
    (one,) = (each for each in chosen if each.name == name)
    one = Study(one.name, one.setting, one.rows[:2])
    program.record(one, 0, tmp_path)
    for row in Record(one, tmp_path).found["rows"]:
        figures = {key: values[0] for key, values in row["values"].items()}
        assert 0 <= figures["worst"] <= figures["pgd50"] <= figures["clean"] <= 100
        assert figures["cost"] > 0


@pytest.mark.parametrize("name", ["L1", "L2SP", "MagnitudePruning", "MixUp", "Norms"])
def test_regularised_rows_run(name, tmp_path):
    (one,) = (each for each in regularisers.studies(regularised.FewImages(1, 20, 1)) if each.name == name)
    program.record(Study(one.name, one.setting, one.rows[:2]), 0, tmp_path)
    for row in json.loads((tmp_path / f"{name}.json").read_text())["rows"]:
        figures = {key: values[0] for key, values in row["values"].items()}
        assert 0 <= figures["pgd20"] <= figures["clean"] <= 100 and abs(figures["gap"]) <= 100


@pytest.mark.parametrize("name", ["R1", "Conditioning"])
def test_gan_rows_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(gans, "JUDGE_EPOCHS", 1)
    gans.judge.cache_clear()
    (one,) = (each for each in gans.studies(gans.SmallGAN(1, 200, 1)) if each.name == name)
    program.record(Study(one.name, one.setting, one.rows[:2]), 0, tmp_path)
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert gans.judge().name in found["task"]
    assert all(row["values"]["frechet"][0] > 0 and 1 <= row["values"]["modes"][0] <= 10 for row in found["rows"])
    gans.judge.cache_clear()


def test_all_attacks_are_listed_for_both_norms():
    listed = {type(row.build(0)).__name__ for one in attacks.studies(None, Path("data")) for row in one.rows}
    import lightning_advreg.attacks as room

    bases = {"Attack", "BoundedAttack", "LongAttack", "MinimalAttack", "SearchAttack"}
    others = {
        "Corruption",  # has no budget
        "NFGSM",  # leaves its budget, and is for training: a row of PGDAT
        "WorstOf",  # for training; evaluation takes several attacks
    }
    exported = {
        name
        for name in room.__all__
        if inspect.isclass(getattr(room, name)) and issubclass(getattr(room, name), room.Attack)
    }
    assert exported - bases - others <= listed


def test_attacks_run_on_a_network_from_a_file(tmp_path, monkeypatch):
    torch.manual_seed(0)
    path = export_weights(MNISTConvNet(width=2, hidden=8), tmp_path / "small.safetensors")
    images = torch.rand(6, 1, 28, 28), torch.arange(6)
    monkeypatch.setattr(attacks, "_images", lambda data_dir, count: images)
    linf, _ = attacks.studies(path, tmp_path, 6)
    rows = tuple(row for row in linf.rows if row.name in ("none", "FGSM", "DeepFool"))
    program.record(Study(linf.name, linf.setting, rows), 0, tmp_path)
    found = json.loads((tmp_path / "attacks_linf.json").read_text())
    assert "with the weights" in found["task"] and "of small" in found["task"]
    values = {row["name"]: row["values"] for row in found["rows"]}
    assert values["none"]["seconds"] == [None] and values["FGSM"]["size"] == [None]
    assert all(one["low"][0] <= one["left"][0] <= one["high"][0] for one in values.values())
    assert values["FGSM"]["left"][0] <= values["none"]["left"][0]


def test_attacks_without_a_network_are_an_error():
    with pytest.raises(ValueError, match="attacks need a network; give --weights FILE"):
        attacks.studies(None, Path("data"))[0].setting.prepare(Row("none", None))
