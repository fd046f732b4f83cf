import math
import os

import pytest

from lightning_advreg.report import read_ablation, read_run
from lightning_advreg.report.runs import is_run, short_names

from .folders import ALARM, start, write_ablation, write_json, write_picture, write_run, write_test


def test_curves_stand_at_fractions_of_epochs(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    assert run.curves["train/loss"] == [(0.5, 2.0), (1.5, 1.5), (2.5, 1.0)]
    assert run.curves["val/acc"] == [(1.0, 0.5), (2.0, 0.6), (3.0, 0.7)]


def test_a_resumed_run_shows_all_its_starts_and_each_epoch_once(tmp_path):
    folder = write_run(tmp_path / "run")
    head = "epoch,step,val/acc\n"
    (folder / "metrics_1.csv").write_text(head + "0,9,0.99\n")
    (folder / "metrics_2.csv").write_text(head + "0,9,0.1\n1,19,0.2\n")
    (folder / "metrics.csv").write_text(head + "1,19,0.3\n2,29,0.4\n")
    write_json(folder / "environment.json", {"starts": [start(), start(checkpoint="last.ckpt")]})
    assert read_run(folder).curves == {"val/acc": [(1.0, 0.1), (2.0, 0.3), (3.0, 0.4)]}


def test_metrics_of_an_earlier_run_in_the_folder_are_no_part_of_this_one(tmp_path):
    folder = write_run(tmp_path / "run", epochs=1)
    (folder / "metrics_1.csv").write_text("epoch,step,val/acc\n0,9,0.1\n7,79,0.2\n")
    write_json(folder / "environment.json", {"starts": [start()]})
    assert read_run(folder).epochs == 1


@pytest.mark.parametrize(
    ("starts", "error", "state"),
    [
        ([], None, "3 of 5 epochs"),
        ([start()], None, "not ended, 3 of 5 epochs"),
        ([start(ended="2026-01-01T00:02:00+00:00")], None, "3 of 5 epochs"),
        ([start()], "ValueError: no", "failed, 3 of 5 epochs"),
    ],
)
def test_how_far_a_run_came(tmp_path, starts, error, state):
    folder = write_run(tmp_path / "run", max_epochs=5)
    write_json(folder / "environment.json", {"starts": starts})
    if error:
        write_json(folder / "error.json", {"error": error})
    assert read_run(folder).state == state


def test_a_test_older_than_the_training_is_left_out_with_its_pictures_and_said(tmp_path):
    folder = write_test(write_run(tmp_path / "run"), begun="2025-12-31T00:00:00+00:00")
    write_picture(folder / "test/images/test_adversarial_examples_000000.png")
    write_json(folder / "environment.json", {"starts": [start()]})
    run = read_run(folder)
    assert not run.tested and not run.evaluations and not run.pictures
    assert run.notes == ["test/ is older than this training, and is left out; test again"]


def test_a_test_of_this_training_is_read(tmp_path):
    folder = write_test(write_run(tmp_path / "run"))
    write_json(folder / "environment.json", {"starts": [start()]})
    run = read_run(folder)
    assert run.tested["test/acc"] == 0.875
    assert list(run.evaluations) == ["test/robust_evaluation.json"]
    assert [sign["name"] for sign in run.signs] == ["zero_gradients"]


def test_pictures_of_an_earlier_run_in_the_folder_are_left_out(tmp_path):
    folder = write_run(tmp_path / "run")
    for name in ("old", "new"):
        write_picture(folder / f"images/{name}_000010.png")
    os.utime(folder / "images/old_000010.png", (0, 0))
    write_json(folder / "environment.json", {"starts": [start()]})
    assert [path.name for path in read_run(folder).pictures] == ["new_000010.png"]


def test_a_monitor_without_alarms_is_not_the_same_as_no_monitor(tmp_path):
    watched, unwatched = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    write_json(watched / "alarms.json", {"alarms": [], "stop_reason": None})
    assert read_run(watched).alarms == []
    assert read_run(unwatched).alarms is None
    write_json(watched / "alarms.json", {"alarms": [ALARM], "stop_reason": None})
    assert read_run(watched).alarms == [ALARM]


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", "alarms.json", "test/results.json"])
def test_a_broken_file_is_named_and_the_rest_is_shown(tmp_path, name):
    folder = write_test(write_run(tmp_path / "run"))
    (folder / name).write_text("{ : [")
    run = read_run(folder)
    assert len(run.notes) == 1 and run.notes[0].startswith(f"{name.rpartition('/')[2]} cannot be read: ")
    assert run.epochs == 3


def test_metrics_cut_off_in_the_middle_of_a_line_are_read(tmp_path):
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.csv").open("a") as file:
        file.write("3,39,,0.")
    run = read_run(folder)
    assert [x for x, _ in run.curves["val/acc"]] == [1.0, 2.0, 3.0, 4.0]
    (folder / "metrics.csv").write_text("epoch,step,val/acc\n0,9,nan\n1,19,what\n")
    assert all(math.isnan(value) for _, value in read_run(folder).curves["val/acc"])


def test_hyper_parameters_of_a_run_without_a_command_line_and_their_classes_are_shown(tmp_path):
    (tmp_path / "hparams.yaml").write_text("width: 3\nact: !!python/name:torch.nn.ReLU ''\n_instantiator: x\n")
    run = read_run(tmp_path)
    assert run.config == {"model": {"width": 3, "act": "torch.nn.ReLU"}}
    assert not run.notes


def test_folders_of_other_things_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    assert not is_run(tmp_path)
    with pytest.raises(ValueError, match=r"is no run: it has none of config\.yaml, .*; give the folder of a run"):
        read_run(tmp_path)
    with pytest.raises(ValueError, match=r"is no ablation: it has no results\.csv; give what `ablate --out`"):
        read_ablation(tmp_path)


def test_names_are_as_short_as_they_can_be(tmp_path):
    folders = [tmp_path / name for name in ("a/version_0", "b/version_0", "c")]
    assert short_names(folders) == ["a/version_0", "b/version_0", "c"]
    assert short_names([tmp_path / "c", tmp_path / "c"])[0].endswith("c")


def test_an_ablation_is_its_table_its_sentences_its_runs_and_its_plots(tmp_path):
    ablation = read_ablation(write_ablation(tmp_path / "ablation", cell="a\\|b"))
    assert ablation.tables == [[["cell", "clean acc"], ["a|b", "90.00 %"]]]
    assert ablation.text == ["Mean over 1 seed."]
    assert ablation.runs[1] == ["a\\|b", "0", "0.9"]
    assert [path.name for path in ablation.plots] == ["main_effects.png"]


def test_an_ablation_without_its_table_shows_its_runs(tmp_path):
    folder = write_ablation(tmp_path / "ablation")
    (folder / "table.md").unlink()
    ablation = read_ablation(folder)
    assert len(ablation.runs) == 2 and not ablation.tables
    assert ablation.notes[0].startswith("table.md cannot be read")
