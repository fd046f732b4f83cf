import subprocess
import sys

import pytest

from lightning_advreg.report.command import main

from .folders import write_ablation, write_run


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_runs_and_ablations_go_into_one_file(tmp_path, capsys):
    runs = [str(write_run(tmp_path / name)) for name in ("a", "b")]
    out = tmp_path / "deep/report.html"
    assert main([*runs, str(write_ablation(tmp_path / "c")), "--out", str(out), "--title", "Mine"]) == 0
    said = capsys.readouterr()
    assert "2 runs and 1 ablations are in" in said.out and str(out) in said.out
    assert "runs: " in said.err and "0/2" in said.err and "0/1" in said.err  # the bars
    text = out.read_text()
    assert text.startswith("<!DOCTYPE html>") and "<title>Mine</title>" in text


def test_what_is_no_run_is_left_out_and_said_where_others_are(tmp_path, capsys):
    run = write_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.html").write_text("")
    out = tmp_path / "report.html"
    assert main([str(run), str(tmp_path / "empty"), str(tmp_path / "old.html"), str(run), "--out", str(out)]) == 0
    err = capsys.readouterr().err
    assert "empty is no run: it has neither config.yaml nor metrics.csv" in err and "old.html" not in err
    assert "empty is no run" in out.read_text() and "Report on 1 run<" in out.read_text()


def test_a_folder_that_is_not_there_and_one_that_is_no_run_are_refused(tmp_path, capsys):
    assert "there is no folder" in refused(capsys, str(tmp_path / "nowhere"))
    assert "there is nothing to show" in refused(capsys, str(tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_a_folder_of_runs_says_how_to_give_them(tmp_path, capsys):
    write_run(tmp_path / "runs/a")
    assert "runs is no run, but holds some (a); give" in refused(capsys, str(tmp_path / "runs"))


def test_the_program_knows_the_command_without_waiting_for_lightning(tmp_path):
    write_run(tmp_path / "a")
    code = (
        "import sys; sys.argv = ['lightning-advreg', 'report', 'a']\n"
        "from lightning_advreg.__main__ import console\n"
        "try:\n    console()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert (tmp_path / "report.html").is_file()
