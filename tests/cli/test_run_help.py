"""The short help names flags and commands: the real parser knows them all."""

import re
import shlex

import pytest
import yaml

from lightning_advreg.cli import main
from lightning_advreg.commands import COMMANDS
from lightning_advreg.run_help import page

RUNS = [name for name, (_, module) in COMMANDS.items() if not module]
OWN = {"--resume", "--help"}


def said_by(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code in (0, None), f"{arguments}: {err}"
    return out


def commands(text):
    joined = text.replace("\\\n", " ")
    return [
        shlex.split(line)[1:]
        for line in joined.splitlines()
        if line.startswith("  lightning-advreg ") and "NAME" not in line
    ]


@pytest.fixture(autouse=True)
def a_checkpoint_is_not_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", RUNS)
def test_every_flag_is_one_of_the_parser(name, capsys):
    whole = said_by(capsys, [name, "--help", "all"])
    assert len(whole.splitlines()) > 200
    known = set(re.findall(r"--[\w.]+", whole))
    usual = page(name).partition("the usual flags:\n")[2].partition("\n\n")[0]
    named = set(re.findall(r"^  (--[\w.]+)", usual, re.MULTILINE))
    assert len(named) >= 8
    inside = {flag for flag in named if ".init_args." in flag}
    assert named - inside - OWN <= known
    for flag in inside:
        assert f"data_dir: {name}" in said_by(capsys, [name, "--config", "mnist_trades", flag, name, "--print_config"])


@pytest.mark.parametrize("name", RUNS)
def test_every_example_is_taken_by_the_parser(name, capsys):
    examples = commands(page(name).partition("examples:")[2])
    assert examples
    for arguments in examples:
        printed = said_by(capsys, [*arguments, "--print_config"])
        for flag, value in zip(arguments[1::2], arguments[2::2], strict=True):
            assert flag == "--config" or f"{flag.rpartition('.')[2].lstrip('-')}: {value}" in printed


def test_changes_change_what_they_say(capsys):
    lines = page("fit").partition("to override")[2].partition("\n\n")[0].splitlines()[1:]
    flags = [part for line in lines for part in shlex.split(line)]
    printed = said_by(capsys, ["fit", "--config", "quickstart", *flags, "--print_config"])
    config = yaml.safe_load(printed)
    model, callbacks = config["model"]["init_args"], config["trainer"]["callbacks"]
    assert model["optimizer"]["init_args"]["lr"] == 0.01
    (penalty,) = model["penalties"]
    assert penalty["class_path"].endswith("penalties.L2") and float(penalty["init_args"]["weight"]) == 1e-4
    assert len(callbacks) > 1 and callbacks[-1]["class_path"].endswith("callbacks.ConvergenceMonitor")


def test_classes_say_what_they_take(capsys):
    asked = commands(page("fit").partition("what a class takes:")[2].partition("\n\n")[0])
    for arguments, argument in zip(asked, ("objective", "data_dir", "max_samples"), strict=True):
        assert argument in said_by(capsys, arguments)


def test_resume_is_taken(tmp_path):
    with pytest.raises(SystemExit, match="is not the folder of a run"):
        main(["fit", "--resume", str(tmp_path)])
