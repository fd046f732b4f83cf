"""The screen that says what there is, the command ``configs``, and the program's way to its commands."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_advreg import __version__
from lightning_advreg.__main__ import console
from lightning_advreg.commands import COMMANDS, overview, unknown_command
from lightning_advreg.completion import completion_parser
from lightning_advreg.config_files import shipped_configs
from lightning_advreg.configs_command import listing, main, summary
from lightning_advreg.run_help import page, wants_page


def ended(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["lightning-advreg", *arguments])
    with pytest.raises(SystemExit) as caught:
        console()
    return caught.value.code


def test_the_overview_fits_into_a_terminal():
    lines = overview().splitlines()
    # the last of the 24 lines is that of the prompt
    assert len(lines) <= 23 and max(map(len, lines)) <= 80
    for name in COMMANDS:
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1
    assert {"fit", "validate", "test", "predict", "demo", "ablate", "report", "export", "configs"} <= set(COMMANDS)


def test_help_version_and_unknown_commands(monkeypatch, capsys):
    assert ended(monkeypatch, "--help") == 0 and ended(monkeypatch, "-h") == 0
    assert capsys.readouterr().out == 2 * overview()
    assert ended(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"lightning-advreg {__version__}\n"
    # without a command it is no success
    assert ended(monkeypatch) == 2
    assert capsys.readouterr().err == overview()
    assert ended(monkeypatch, "repor") == 2
    said = "there is no command 'repor'; did you mean report or export?"
    assert capsys.readouterr().err == f"lightning-advreg: error: {said}\n"
    assert unknown_command("zzzz").endswith(f"give one of {', '.join(COMMANDS)}.")


@pytest.mark.parametrize("name", [name for name, (_, module) in COMMANDS.items() if module])
def test_every_command_leads_to_its_module(name, monkeypatch, capsys):
    assert ended(monkeypatch, name, "--help") == 0
    assert f"usage: lightning-advreg {name}" in capsys.readouterr().out


def test_help_and_configurations_need_no_torch(tmp_path):
    script = "import sys\nfrom lightning_advreg.__main__ import console\ntry:\n    console()\n"
    script += "except SystemExit:\n    sys.stderr.write(str({'torch', 'lightning', 'numpy'} & set(sys.modules)))\n"
    asked = (["fit", "--help"], ["test", "--config", "quickstart", "-h"])
    for arguments in (*asked, ["--help"], ["configs"], ["configs", "--copy", "quickstart"], ["fitt"]):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stderr.splitlines()[-1] == "set()", arguments
    assert (tmp_path / "quickstart.yaml").is_file()


@pytest.mark.parametrize("name", [name for name, (_, module) in COMMANDS.items() if not module])
def test_the_help_of_a_run_fits_onto_two_screens(name, monkeypatch, capsys):
    assert ended(monkeypatch, name, "--help") == 0
    said = capsys.readouterr().out
    assert said == page(name)
    lines = said.splitlines()
    assert len(lines) <= 46 and max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: lightning-advreg {name} --config")
    assert ended(monkeypatch, name, "--config", "quickstart", "-h") == 0
    assert capsys.readouterr().out == said


def test_the_short_help_is_not_in_the_way_of_others():
    assert not wants_page("fit", ["--help", "all"]) and not wants_page("fit", ["--model.help", "GAN"])
    assert not wants_page("fit", ["--config", "quickstart", "all"]) and not wants_page("samples", ["--help"])


def test_configurations_are_listed_by_their_first_comment(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_configs())
    assert all(len(line.split(maxsplit=1)[1]) > 15 for line in lines)
    # runs come first
    assert "/" not in lines[0] and "/" in lines[-1]
    assert max(map(len, listing(80).splitlines())) <= 80
    assert [line.split()[0] for line in listing(80).splitlines()] == list(shipped_configs())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# PGD on MNIST (Madry et al. 2018). More.\na: 1\n", "PGD on MNIST (Madry et al. 2018)"),
        ("# Over two\n# lines, Linf 0.3: and why.\n# More\n", "Over two lines, Linf 0.3"),
        ("# Does it help? Three seeds.\n", "Does it help?"),
        ("# Soft and hard:\n#   lightning-advreg fit\n", "Soft and hard"),
        ("# No end\n", "No end"),
        ("trainer: {}\n# later\n", ""),
    ],
)
def test_the_first_sentence(text, said):
    assert summary(text) == said


def test_a_configuration_is_printed_and_copied(tmp_path, monkeypatch, capsys):
    text = shipped_configs()["mnist_trades"].read_text()
    for name in ("mnist_trades", "mnist_trades.yaml", "configs/mnist_trades.yaml"):
        assert main([name]) == 0
        assert capsys.readouterr().out == text
    monkeypatch.chdir(tmp_path)
    assert main(["--copy", "mnist_trades"]) == 0
    assert Path("mnist_trades.yaml").read_text() == text
    assert capsys.readouterr().out.endswith("give it as --config mnist_trades.yaml\n")
    assert main(["--copy", "ablations/digits", "mine/new"]) == 0
    assert Path("mine", "new", "digits.yaml").is_file()
    assert capsys.readouterr().out.endswith("give it as --variants mine/new/digits.yaml\n")


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "mnist_trades.yaml").write_text("mine")
    with pytest.raises(SystemExit) as caught:
        main(["--copy", "mnist_trades", str(tmp_path)])
    assert caught.value.code == 2
    assert "mnist_trades.yaml exists, and is not overwritten; give another folder" in capsys.readouterr().err
    assert (tmp_path / "mnist_trades.yaml").read_text() == "mine"


def test_wrong_names_of_configurations():
    for arguments in (["mnist_trads"], ["--copy", "mnist_trads"]):
        with pytest.raises(
            SystemExit, match=r"no configuration mnist_trads; nearest .*: mnist_trades, .*configs` lists"
        ):
            main(arguments)
    with pytest.raises(SystemExit) as caught:
        main(["--copy", "quickstart", "a", "b"])
    assert caught.value.code == 2


def test_completion_knows_every_command():
    commands = {"predict": ["--config", "quickstart", "--ckpt_path", "a.ckpt"], "configs": ["--copy", "quickstart"]}
    for name in COMMANDS:
        assert completion_parser().parse_args([name, *commands.get(name, [])]).command == name


@pytest.mark.skipif(importlib.util.find_spec("argcomplete") is None, reason="argcomplete is not installed")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("lightning-advreg re", {"report"}),
        ("lightning-advreg fit --config mnist_t", {"mnist_trades"}),
        ("lightning-advreg fit --config mi", {"mine.yaml"}),
        ("lightning-advreg zoo mnist_tr", {"mnist_trades"}),
        ("lightning-advreg configs --copy eval/", {"eval/autoattack", "eval/autoattack_fast", "eval/gan"}),
    ],
)
def test_a_shell_is_answered(typed, offered, tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    asked |= {"COMP_LINE": typed, "COMP_POINT": str(len(typed)), "COMP_TYPE": "9"}
    command = [sys.executable, "-m", "lightning_advreg"]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, **asked}, capture_output=True)
    assert {word.strip() for word in answer.read_text().split("\n")} - {""} == offered
