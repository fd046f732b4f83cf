"""An ablation whose runs log to W&B: one group, one run a cell and seed, and one for the comparison."""

import os

import pytest

from lightning_advreg.ablation import Ablation, Axis, Plan, make_runs
from lightning_advreg.ablation.wandb_runs import grouped, log_comparison, wandb_settings

from ..loggers.reading import read
from .parts import InProcess, outcome, write_base


def plan_of(folder, *flags):
    arguments = ("--config", str(write_base(folder)), *flags)
    return Plan(arguments=arguments, axes=(Axis.parse("width=4,8"),), seeds=(0,))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
            patch.delenv(name)
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_MODE", "offline")
        plan = plan_of(folder, "--config", "logger/wandb")
        runs = make_runs(plan, folder / "widths")
        ablation = Ablation(plan=plan, runs=runs, out=folder / "widths", launcher=InProcess())
        outcomes = ablation.conduct()
        # nothing is left to do, and the comparison goes on in its own run
        again = Ablation(plan=plan, runs=runs, out=folder / "widths", launcher=InProcess()).conduct()
        assert [one.state for one in outcomes] == [one.state for one in again] == ["finished"] * 2
        segments = [read(path) for path in folder.glob("runs/wandb/offline-run-*")]
    return plan, outcomes, segments


def by_name(segments, name):
    return sorted((s for s in segments if s.run.display_name == name), key=lambda segment: segment.folder.name)


def test_runs_are_named_after_their_cells_and_in_one_group(study):
    plan, _, segments = study
    assert {segment.run.run_group for segment in segments} == {"widths"}
    for cell in plan.cells:
        fitted, tested = by_name(segments, f"{cell.name}, seed 0")
        assert fitted.run.run_id == tested.run.run_id
        assert fitted.steps("train/loss") == [0, 1, 2, 3] and tested.steps("test/acc") == [4]
    assert len({segment.run.run_id for segment in segments}) == 3


def test_the_comparison_is_a_run_of_its_own_that_goes_on(study):
    plan, outcomes, segments = study
    first, second = by_name(segments, "comparison")
    assert first.run.run_id == second.run.run_id
    for segment in (first, second):
        rows = segment.table("ablation/runs")
        assert [(row["cell"], row["seed"], row["test/acc"]) for row in rows] == [
            (one.run.cell.name, 0, one.metrics["test/acc"]) for one in outcomes
        ]
        assert [row["runs"] for row in segment.table("ablation/summary")] == ["1 of 1"] * 2
        assert segment.config["cells"][plan.cells[0].name]["baseline"] is True
        assert segment.config["arguments"][1] == "base.yaml"
    plots = [name for row in first.history for name in row if name.startswith("ablation/")]
    assert len(plots) > 2 and all(first.media(name)[0].is_file() for name in plots)


def test_without_such_a_logger_nothing_is_sent_and_nothing_changes(tmp_path):
    plan = plan_of(tmp_path)
    runs = make_runs(plan, tmp_path / "out")
    assert [run.config for run in grouped(runs, tmp_path / "out")] == [run.config for run in runs]
    assert not log_comparison(plan, [outcome("a", 0, test__acc=0.5)], ["test/acc"], tmp_path)
    assert not list(tmp_path.rglob("wandb*"))


def test_a_name_and_a_group_of_ones_own_stay(tmp_path):
    flags = ["--trainer.logger.init_args.name", "mine", "--trainer.logger.init_args.group", "ours"]
    plan = plan_of(tmp_path, "--config", "logger/wandb", *flags)
    first, _ = grouped(make_runs(plan, tmp_path / "out"), tmp_path / "out")
    settings = wandb_settings(first.config)
    assert (settings["name"], settings["group"]) == ("mine", "ours")
