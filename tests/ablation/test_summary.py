import csv
import io
from pathlib import Path

import pytest
from rich.console import Console

from lightning_advreg.ablation import Axis, Plan, Variant, plots
from lightning_advreg.ablation.folders import (
    changes,
    checkpoint_to_resume,
    failure,
    logged,
    prepare,
    set_aside,
)
from lightning_advreg.ablation.progress import Board
from lightning_advreg.ablation.results import FAILED, PENDING, shown_metrics, write_csv
from lightning_advreg.ablation.summary import summary_markdown, summary_rows, summary_text
from lightning_advreg.files import write_json, write_text

from .parts import outcome

ACC, ROBUST = "test/acc", "test/robust_acc/pgd20"


def plan(*names, seeds=(0, 1, 2)):
    return Plan(variants=tuple(Variant(name=name) for name in names), seeds=seeds)


def measured(cell, *accuracies, **settings):
    return [outcome(cell, seed, test__acc=value, **settings) for seed, value in enumerate(accuracies)]


# the table


def test_mean_spread_difference_and_corrected_p():
    # differences 2, 3, 4 points: t = 3 sqrt(3) = 5.196, p = 0.0351; and -1, 0, 1: p = 1
    outcomes = [*measured("base", 0.9, 0.8, 0.7), *measured("up", 0.92, 0.83, 0.74), *measured("same", 0.89, 0.8, 0.71)]
    rows = summary_rows(plan("base", "up", "same"), outcomes, [ACC])
    assert rows[0] == {
        "cell": "base (baseline)", "runs": "3 of 3", "clean acc": "80.00 ± 10.00 %", "Δ clean": "", "p clean": "",
    }  # fmt: skip
    assert (rows[1]["Δ clean"], rows[1]["p clean"]) == ("+3.00", "0.070")
    assert (rows[2]["Δ clean"], rows[2]["p clean"]) == ("+0.00", "1.000")


def test_pairs_are_of_the_seeds_that_both_have():
    outcomes = [
        *measured("base", 0.9, 0.8),
        outcome("base", 2, state=FAILED, error="ValueError: no"),
        *measured("up", 0.95, 0.83, 0.1),
    ]
    rows = summary_rows(plan("base", "up"), outcomes, [ACC])
    assert rows[0]["runs"] == "2 of 3"
    assert rows[1]["Δ clean"] == "+4.00"
    text = " ".join(summary_text(plan("base", "up"), outcomes, [ACC]))
    assert "Failed: base, seed 2: ValueError: no" in text


def test_sentences_say_what_can_be_told():
    single = " ".join(summary_text(plan("a", "b", seeds=(0,)), [*measured("a", 0.5), *measured("b", 0.9)], [ACC]))
    assert "too few seeds to tell" in single
    clear = [*measured("a", *[0.5, 0.51, 0.52, 0.5, 0.5]), *measured("b", *[0.7, 0.72, 0.71, 0.7, 0.71])]
    text = " ".join(summary_text(plan("a", "b", seeds=tuple(range(5))), clear, [ACC]))
    assert "Different from the baseline at the 0.05 level: b in clean." in text
    assert "With" not in text
    few = [*measured("a", 0.5, 0.6, 0.4), *measured("b", 0.6, 0.5, 0.45), outcome("a", 3, state=PENDING)]
    text = " ".join(summary_text(plan("a", "b"), few, [ACC]))
    assert "No difference to the baseline is significant" in text
    assert "With 3 pairs only large differences" in text
    assert "1 of 7 runs are still to be done" in text


def test_metrics_that_are_no_accuracies_are_not_percent():
    outcomes = [outcome("a", 0, test__fid=12.5), outcome("b", 0, test__fid=11.0)]
    rows = summary_rows(plan("a", "b", seeds=(0,)), outcomes, ["test/fid"])
    assert (rows[0]["fid"], rows[1]["fid"], rows[1]["Δ fid"], rows[1]["p fid"]) == ("12.5", "11", "-1.5", "-")


def test_the_markdown_has_table_and_sentences():
    text = summary_markdown(plan("a", "b"), [*measured("a", 0.5), *measured("b", 0.9)], [ACC])
    assert text.startswith("# Ablation\n\n| cell | runs | clean acc | Δ clean | p clean |\n")
    assert "Holm" in text


def test_the_accuracies_of_the_test_are_the_shown_metrics():
    metrics = {"val__acc": 1, "test__robust_acc__pgd20": 0, "test__acc": 0, "test__loss": 0}
    assert shown_metrics([outcome("a", 0, **metrics)]) == [ACC, ROBUST]
    assert shown_metrics([outcome("a", 0, test__d_real=1, test__d_fake=1)]) == ["test/d_fake", "test/d_real"]


def test_metrics_are_found_by_the_ends_of_their_names():
    # the hash in the middle is not known before the run
    runs = [outcome("a", 0, **{"test/gan/Net-1234/frechet": 1.0, "test/gan/Net-1234/modes": 9.0, "test/d_real": 0.5})]
    assert shown_metrics(runs) == ["test/gan/Net-1234/frechet", "test/gan/Net-1234/modes"]
    assert shown_metrics(runs, ["modes", "test/d_real", "recall"]) == [
        "test/gan/Net-1234/modes",
        "test/d_real",
        "recall",
    ]
    both = [*runs, outcome("a", 1, **{"test/gan/Other/modes": 9.0})]
    assert shown_metrics(both, ["modes"]) == ["modes"], "two metrics end so"


def test_the_csv_is_tidy(tmp_path):
    outcomes = [
        outcome("a", 0, levels={"norm": "batch", "size": "10"}, test__acc=0.5),
        outcome("b", 1, state=FAILED, error="ValueError: a, b", levels={"norm": "none", "size": "10"}),
    ]
    write_csv(outcomes, tmp_path / "results.csv", "a")
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["cell"], row["baseline"], row["norm"], row["seed"], row["state"]) for row in rows] == [
        ("a", "yes", "batch", "0", "finished"),
        ("b", "no", "none", "1", "failed"),
    ]
    assert (rows[0]["test/acc"], rows[1]["test/acc"]) == ("0.5", "")
    assert rows[1]["error"] == "ValueError: a, b"
    assert {"fit_seconds", "device", "threads", "fingerprint"} <= rows[0].keys()


# folders


def test_epochs_of_several_starts_are_one_course(tmp_path):
    (tmp_path / "metrics_1.csv").write_text("epoch,step,train/acc,val/acc\n0,4,,0.1\n0,4,0.2,\n1,8,,0.3\n")
    (tmp_path / "metrics_2.csv").write_text("epoch,val/acc\n1,0.35\n")
    (tmp_path / "metrics_10.csv").write_text("epoch,val/acc\n1,0.4\n")
    (tmp_path / "metrics.csv").write_text("epoch,step,val/acc\n2,12,0.5\n")
    course = logged(tmp_path)
    assert [row.get("val/acc") for row in course] == [0.1, 0.4, 0.5]
    assert course[0]["train/acc"] == 0.2


def test_the_last_checkpoint_comes_before_newer_ones(tmp_path):
    assert checkpoint_to_resume(tmp_path) is None
    (tmp_path / "checkpoints").mkdir()
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.touch()
    (tmp_path / "checkpoints" / "epoch=9.ckpt").touch()
    assert checkpoint_to_resume(tmp_path) == last
    last.unlink()
    assert checkpoint_to_resume(tmp_path).name == "epoch=9.ckpt"


def test_what_changes_results_is_told_from_what_does_not(tmp_path):
    config = {"trainer": {"max_epochs": 2, "default_root_dir": "a", "logger": None}, "model": {"lr": [1, 2]}}
    assert changes(tmp_path / "run", config) == []
    prepare(tmp_path / "run", config)
    moved = {**config, "trainer": {"max_epochs": 2, "default_root_dir": "b", "logger": "x"}}
    assert changes(tmp_path / "run", moved) == []
    longer = {**config, "trainer": {"max_epochs": 3}, "model": {"lr": [1, 3]}}
    assert changes(tmp_path / "run", longer) == ["trainer.max_epochs: 2 -> 3", "model.lr: [1, 2] -> [1, 3]"]


def test_folders_set_aside_keep_their_content(tmp_path):
    for content in ("one", "two"):
        write_text(tmp_path / "run" / "x", content)
        set_aside(tmp_path / "run")
    assert [(tmp_path / f"run_before_{i}" / "x").read_text() for i in (1, 2)] == ["one", "two"]


def test_a_file_is_never_half_written(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    monkeypatch.setattr("os.fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_json(path, {"a": 2})
    assert path.read_text() == '{\n  "a": 1\n}\n'


def test_why_a_run_failed(tmp_path):
    assert failure(tmp_path, -9) == "killed by signal 9; last line of its log: the log is empty"
    (tmp_path / "log.txt").write_text("x\nTerribleError\n\n")
    assert failure(tmp_path, 3) == "ended with exit status 3; last line of its log: TerribleError"
    write_json(tmp_path / "error.json", {"error": "ValueError: b"})
    assert failure(tmp_path, 1) == "ValueError: b"


# progress


def test_the_board_shows_states_means_and_errors():
    outcomes = [*measured("a", 0.5, 0.7), outcome("b", 0, state=FAILED, error="ValueError: no"), outcome("b", 1)]
    console = Console(file=io.StringIO(), width=100)
    board = Board([each.run for each in outcomes], console, None)
    board.skip(outcomes[0])
    board.start(outcomes[1].run.folder)
    board.end(outcomes[1])
    board.start(outcomes[2].run.folder)
    board.end(outcomes[2])
    board.start(outcomes[3].run.folder)
    shown = Console(file=io.StringIO(), width=100)
    shown.print(board.table())
    text = shown.file.getvalue()
    assert "2 of 4 runs finished, 1 failed" in text
    assert "✓ ✓" in text
    assert "✗ ▶" in text
    assert "60.00 ± 14.14 %" in text
    assert "b, seed 0: ValueError: no" in text
    # without a terminal, a line for each event
    lines = console.file.getvalue().splitlines()
    assert [line.partition(" in ")[0] for line in lines[:3]] == [
        "[2/4] a, seed 1: started",
        "[2/4] a, seed 1: finished",
        "[3/4] b, seed 0: started",
    ]
    assert lines[1].endswith(" s: clean acc 70.00 %")
    assert lines[3] == "[3/4] b, seed 0: failed: ValueError: no"


def test_a_long_board_shows_what_runs():
    outcomes = [outcome(f"cell{index}", 0) for index in range(60)]
    console = Console(file=io.StringIO(), width=80, height=20, force_terminal=True)
    board = Board([each.run for each in outcomes], console, None)
    board.start(outcomes[40].run.folder)
    assert board.table().row_count == 12
    assert "cell40" in list(board.table().columns[0].cells)


# plots


def test_plots_show_what_finished(tmp_path, monkeypatch):
    drawn = {}
    # drawing takes seconds, and tests of reporting do it
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.update({path.stem: figure}))
    outcomes = []
    for norm, clean in (("batch", 0.9), ("none", 0.7)):
        for size, extra in (("10", 0.0), ("20", 0.05)):
            for seed in (0, 1):
                rates = {"test__acc": clean + extra, "test__robust_acc__pgd20": 0.3, "train__final_acc": 1.0}
                levels = {"norm": norm, "size": size}
                outcomes.append(outcome(f"norm={norm},size={size}", seed, levels=levels, folder=tmp_path, **rates))
                course = "epoch,val/acc,val/robust_acc/pgd20,val/late_acc\n0,0.5,,\n1,0.7,0.2,\n2,0.7,0.3,0.1\n"
                write_text(outcomes[-1].run.folder / "metrics.csv", course)
    outcomes.append(outcome("norm=none,size=20", 2, state=FAILED, error="x", levels={"norm": "none", "size": "20"}))
    study = Plan(axes=(Axis.parse("norm=batch,none"), Axis.parse("size=10,20")), seeds=(0, 1, 2))
    files = plots.draw_plots(study, outcomes, [ACC, ROBUST], tmp_path / "plots")
    assert [path.stem for path in files] == list(drawn)
    assert sorted(drawn) == [
        "generalisation_gap",
        "interaction_norm_size_clean_acc",
        "interaction_norm_size_robust_acc_pgd20",
        "learning_curves_acc",
        "learning_curves_robust_acc_pgd20",
        "main_effects",
        "tradeoff_robust_acc_pgd20",
    ]
    numbers = [text.get_text() for text in drawn["interaction_norm_size_clean_acc"].axes[0].texts]
    assert numbers == ["90.0", "95.0", "70.0", "75.0"]
    assert drawn["generalisation_gap"].axes[0].texts[0].get_text() == "10.0 ± 0.0"
    # the first epoch has no robust accuracy, and the one of the last epoch alone is no course
    assert list(drawn["learning_curves_robust_acc_pgd20"].axes[0].lines[0].get_xdata()) == [2, 3]
    points = [line.get_xdata()[0] for line in drawn["main_effects"].axes[0].lines if line.get_marker() == "o"]
    assert points == pytest.approx([92.5, 72.5])


def test_nothing_finished_means_no_plots():
    assert plots.draw_plots(plan("a", "b"), [outcome("a", 0, state=FAILED, error="x")], [], Path("nowhere")) == []
