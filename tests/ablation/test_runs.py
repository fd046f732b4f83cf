"""From the command to the results, with real trainings of a second each."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import lightning_advreg
from lightning_advreg import RegularizedClassifier
from lightning_advreg.ablation import Ablation, Axis, Override, Plan, Variant, command, make_runs, worker
from lightning_advreg.ablation.conduct import _alone_in
from lightning_advreg.ablation.configuration import fingerprint, resolve
from lightning_advreg.data import DigitsDataModule
from lightning_advreg.networks import MNISTConvNet

from .parts import InProcess, write_base

VARIANTS = """
variants:
  base: {}
  wide: {width: 8}
  # it is built without complaint, and fails at the first batch
  broken: {image_size: 16}
"""


def plan_of(folder, *variants, **settings):
    return Plan(arguments=("--config", str(write_base(folder))), variants=variants, **settings)


def variant(name, **changes):
    return Variant(name=name, overrides=tuple(Override(path=path, value=value) for path, value in changes.items()))


def refused(folder, *changes):
    with pytest.raises(ValueError) as caught:
        make_runs(plan_of(folder, Variant(name="v", overrides=changes)), folder / "out")
    return str(caught.value)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """What the command leaves and says, for two cells that work and one that does not."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "variants.yaml").write_text(VARIANTS)
    base, out = write_base(folder), folder / "out"
    arguments = ["--config", str(base), "--variants", str(folder / "variants.yaml"), "--seeds", "2", "--out", str(out)]
    launchers = []

    def launch(options):
        launchers.append(InProcess())
        return launchers[-1]

    def run(*more):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(command, "_launcher", launch)
            status = command.main([*arguments, *more])
        return status, launchers[-1].launched

    return run(), run, out


# the whole way


def test_a_failed_cell_is_shown_and_the_others_finish(study):
    (status, launched), _, out = study
    assert status == 1
    assert len(launched) == 6
    text = (out / "table.md").read_text()
    assert "| base (baseline) | 2 of 2 |" in text
    assert "| wide | 2 of 2 |" in text
    assert "| broken | 0 of 2 | - | - | - |" in text
    assert "Failed: broken, seed 1: ValueError: " in text
    assert "in_channels and image_size" in text


def test_the_csv_has_a_row_for_each_run(study):
    _, _, out = study
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert [(row["cell"], row["seed"], row["state"]) for row in rows] == [
        (cell, seed, "failed" if cell == "broken" else "finished")
        for cell in ("base", "wide", "broken")
        for seed in ("0", "1")
    ]
    for row in rows[:4]:
        tested = json.loads(Path(row["folder"], "test", "results.json").read_text())
        assert float(row["test/acc"]) == tested["metrics"]["test/acc"]
        assert 0 <= float(row["train/final_acc"]) <= 1
        assert float(row["val/acc"]) > 0
        assert row["threads"] == str(torch.get_num_threads())
        assert row["torch"] == torch.__version__.partition("+")[0]
        # the seed is that of the weights, and that of the data
        used = yaml.safe_load(Path(row["folder"], "config.yaml").read_text())
        assert used["seed_everything"] == used["data"]["init_args"]["seed"] == int(row["seed"])
    assert rows[0]["test/loss"] != rows[1]["test/loss"] != rows[2]["test/loss"]
    assert {path.name for path in (out / "plots").iterdir()} == {
        "generalisation_gap.png", "main_effects.png",
    }  # fmt: skip


def test_the_second_time_only_failures_run(study):
    _, run, out = study
    before = (out / "base" / "0" / "result.json").stat().st_mtime_ns
    status, launched = run()
    assert status == 1
    assert [folder.parent.name for folder in launched] == ["broken", "broken"]
    assert (out / "base" / "0" / "result.json").stat().st_mtime_ns == before


def test_another_configuration_is_refused_or_replaces(study, capsys):
    _, run, out = study
    with pytest.raises(SystemExit) as caught:
        run("--model.init_args.network.init_args.hidden", "8")
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "model.init_args.network.init_args.hidden: 16 -> 8" in said
    assert "and so were 5 other runs; give another --out, or --replace to run again what has changed" in said
    copy = out.with_name("copy")
    shutil.copytree(out, copy)
    # flags that come later win
    status, launched = run("--out", str(copy), "--trainer.limit_val_batches", "2", "--replace", "--seeds", "1")
    assert (status, len(launched)) == (1, 3)
    assert (copy / "base" / "0_before_1" / "result.json").is_file()
    assert yaml.safe_load((copy / "base" / "0" / "config.yaml").read_text())["trainer"]["limit_val_batches"] == 2
    # seeds that were not asked for stay
    assert (copy / "base" / "1" / "result.json").is_file()


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_launcher", lambda options: InProcess(stop_after=1))
    arguments = ["--config", str(write_base(tmp_path)), "--axis", "width=4,8", "--out", str(tmp_path / "out")]
    assert command.main(arguments) == 130
    assert "the same command continues where this one was" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [row["state"] for row in rows] == ["finished", "not run"]
    assert "1 of 2 runs are still to be done" in (tmp_path / "out" / "table.md").read_text()


def worker_processes(folder):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "lightning_advreg.ablation.worker" in words and any(word.startswith(str(folder)) for word in words):
            found.append(path.parent.name)
    return found


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_in_the_middle_it_ends_with_the_table_of_an_uninterrupted_one(tmp_path):
    base = write_base(tmp_path)
    arguments = ["--config", str(base), "--axis", "width=4,8", "--trainer.max_epochs", "60"]
    out = tmp_path / "killed"
    program = [sys.executable, "-m", "lightning_advreg", "ablate", *arguments, "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(Path(lightning_advreg.__file__).parents[1])}
    with (tmp_path / "said.txt").open("w") as said:
        killed = subprocess.Popen(program, env=environment, stdout=said, stderr=said)
    last = out / "width=4" / "0" / "checkpoints" / "last.ckpt"
    while killed.poll() is None and not last.is_file():
        time.sleep(0.02)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL, (tmp_path / "said.txt").read_text()
    deadline = time.monotonic() + 20
    while worker_processes(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker_processes(out)
    assert last.is_file()
    assert not (last.parents[1] / "result.json").exists()
    plan = Plan(arguments=tuple(arguments[:2] + arguments[4:]), axes=(Axis.parse("width=4,8"),))
    first = torch.load(last, weights_only=True)["epoch"]
    outcomes = {}
    for folder in (out, tmp_path / "whole"):
        runs = make_runs(plan, folder)
        outcomes[folder.name] = Ablation(plan=plan, runs=runs, out=folder, launcher=InProcess()).conduct()
    assert (out / "table.md").read_text() == (tmp_path / "whole" / "table.md").read_text()
    for one, other in zip(outcomes["killed"], outcomes["whole"], strict=True):
        assert one.metrics == other.metrics
    assert [each.result["starts"] for each in outcomes["killed"]] == [2, 1]
    # it went on from the checkpoint, and the log of its epochs has no gap
    again = (out / "width=4" / "0" / "metrics.csv").read_text().splitlines()
    assert int(again[1].split(",")[again[0].split(",").index("epoch")]) > first
    curves = [worker.logged(folder / "width=4" / "0") for folder in (out, tmp_path / "whole")]
    assert [row["val/acc"] for row in curves[0]] == [row["val/acc"] for row in curves[1]]
    assert len(curves[0]) == 60


# configurations


def test_every_cell_is_checked_before_the_first_is_trained(tmp_path):
    said = refused(tmp_path, Override(path="dropout", value=2))
    assert said.startswith("cell 'v': ")
    assert "dropout must lie in [0, 1), got 2" in said
    assert "Given value" not in said
    assert not (tmp_path / "out").exists()
    assert "Expected a typing.Literal['batch'" in refused(tmp_path, Override(path="network.norm", value="foo"))
    assert "there is no 'droput'" in refused(tmp_path, Override(path="droput", value=0.1))


def test_paths_follow_the_classes_that_earlier_changes_bring(tmp_path):
    changes = (
        Override(path="model", value="AdversarialClassifier"),
        Override(path="attack", value={"class_path": "FGSM"}),
        Override(path="attack.eps", value="8/255"),
        Override(path="constraints", value={"class_path": "MaxNorm", "init_args": {"bound": 3}}, append=True),
        Override(path="penalties", value=[{"class_path": "L1", "init_args": {"weight": 1e-4}}], append=True),
        Override(path="train_size", value=80),
        Override(path="callbacks", value="LearningRateMonitor", append=True),
    )
    plan = plan_of(tmp_path, Variant(name="v", overrides=changes), Variant(name="w"), seeds=(7,))
    runs = make_runs(plan, tmp_path)
    given = runs[0].config["model"]["init_args"]
    assert given["attack"]["class_path"].endswith(".FGSM")
    assert given["attack"]["init_args"]["eps"] == "8/255"
    assert given["constraints"][0]["init_args"]["bound"] == 3
    assert [penalty["class_path"].rpartition(".")[2] for penalty in given["penalties"]] == ["L2", "L1"]
    # what both classes know stays
    assert given["network"]["init_args"]["width"] == 4
    assert runs[0].config["data"]["init_args"]["train_size"] == 80
    assert len(runs[0].config["trainer"]["callbacks"]) == 2
    assert runs[1].config["data"]["init_args"] | {"train_size": 80} == runs[0].config["data"]["init_args"]
    assert {run.config["seed_everything"] for run in runs} == {7}
    assert runs[0].folder == tmp_path / "v" / "7"


def test_cells_that_are_the_same_are_refused(tmp_path):
    plan = plan_of(tmp_path, Variant(name="a"), variant("b", width=4))
    with pytest.raises(ValueError, match="cells 'a' and 'b' have the same configuration"):
        make_runs(plan, tmp_path)


def test_an_axis_of_seeds_of_the_data_stays(tmp_path):
    plan = Plan(arguments=("--config", str(write_base(tmp_path))), axes=(Axis.parse("data.seed=4,5"),), seeds=(1,))
    seeds = [
        (run.config["seed_everything"], run.config["data"]["init_args"]["seed"]) for run in make_runs(plan, tmp_path)
    ]
    assert seeds == [(1, 4), (1, 5)]


def test_a_value_may_name_the_seed(tmp_path):
    # a file that each seed has of its own, in the first list of changes and in a cell's
    plan = plan_of(tmp_path, variant("a"), variant("b", **{"data.extra_path": "made_{seed}.npz"}), seeds=(3, 5))
    of = {(run.cell.name, run.seed): run.config["data"]["init_args"] for run in make_runs(plan, tmp_path / "out")}
    assert [of["b", seed]["extra_path"] for seed in (3, 5)] == ["made_3.npz", "made_5.npz"]
    assert [of[name, seed]["seed"] for name in "ab" for seed in (3, 5)] == [3, 5, 3, 5]
    assert of["a", 3]["extra_path"] is None


def test_the_configuration_that_runs_is_the_one_that_was_resolved(tmp_path):
    config = resolve(["--config", str(write_base(tmp_path))])
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(config))
    assert fingerprint(resolve(["--config", str(path)])) == fingerprint(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--axis", "width=4,8", "--seed", "3"], "--seed is not for ablations; seeds are given by --seeds"),
        (["--axis", "width=4,8", "--gpus", "1"], "are for --launcher ray"),
        (["--axis", "width=4,8", "--threads", "0"], "threads must be at least 1, got 0"),
        (["--axis", "width=4,8", "--jobs", "0"], "jobs must be at least 1, got 0"),
        (["--axis", "width=4,8", "--launcher", "ray", "--jobs", "2"], "--jobs is for --launcher local"),
        (["--axis", "width"], "--axis must be PATH=VALUE,VALUE"),
        ([], "nothing is varied"),
        (["--axis", "width=4,8", "--nonsense", "1"], "--nonsense"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        command.main(["--config", str(write_base(tmp_path)), *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_two_ablations_do_not_share_a_folder(tmp_path):
    plan = Plan(variants=(Variant(name="a"),))
    with _alone_in(tmp_path), pytest.raises(ValueError, match=r"another ablation works in .*; wait for its end"):
        Ablation(plan=plan, runs=[], out=tmp_path, launcher=InProcess()).conduct()


# the accuracy on the training set


def test_training_accuracy_is_measured_without_dropout():
    data = DigitsDataModule(batch_size=50, train_size=100, val_size=32)
    model = RegularizedClassifier(MNISTConvNet(image_size=8, width=4, hidden=8, dropout=0.99))
    measured = worker.train_accuracy(model.train(), data, torch.device("cpu"))
    x, y = (torch.cat(parts) for parts in zip(*data.train_dataloader(), strict=True))
    model.eval()
    assert measured == pytest.approx(float((model(x).argmax(1) == y).float().mean()))
    assert worker.train_accuracy(torch.nn.Linear(1, 1), data, torch.device("cpu")) is None
