"""The methods that docs/CONTRIBUTING.md adds, run as they stand there."""

import doctest
import itertools
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import yaml

from lightning_advreg.commands import COMMANDS
from lightning_advreg.config_files import shipped_configs

PAGE = Path(__file__).parents[1] / "docs" / "CONTRIBUTING.md"
FILES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))


def loaded(path, monkeypatch):
    name = path.removesuffix(".py").replace("/", ".")
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(FILES[path], path, "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("lightning_advreg/")])
def test_a_method_of_the_page_and_its_test_run(path, monkeypatch):
    method = loaded(path, monkeypatch)
    room, name = Path(path).parts[-2:]
    test = loaded(f"tests/{room}/test_{name}", monkeypatch)
    examples = doctest.testmod(method)
    assert examples.attempted > 0
    assert examples.failed == 0
    tests = [value for key, value in vars(test).items() if key.startswith("test_")]
    assert tests
    for one in tests:
        one()


def test_the_page_has_three_methods():
    assert len(FILES) == 6


# the forms for issues and pull requests

DOCS = PAGE.parent
FORMS = sorted((DOCS / "ISSUE_TEMPLATE").glob("*.md"))


@pytest.mark.parametrize("path", FORMS, ids=[path.stem for path in FORMS])
def test_a_form_has_what_github_reads_and_its_commands_exist(path):
    _, front, text = path.read_text(encoding="utf-8").split("---\n", 2)
    matter = yaml.safe_load(front)
    assert set(matter) == {"name", "about", "labels"} and all(matter.values())
    assert f"`issues/new?template={path.name}`" in PAGE.read_text(encoding="utf-8")
    for command in re.findall(r"lightning-advreg [^`\n]*", text):
        check_command(shlex.split(command)[1:])


def check_command(arguments):
    name, *rest = arguments
    assert name == "--version" or name in COMMANDS
    for flag, value in itertools.pairwise(rest):
        assert flag != "--config" or value in shipped_configs()


def test_the_forms_are_those_of_the_page():
    asked = set(re.findall(r"template=(\S+?)`", PAGE.read_text(encoding="utf-8")))
    assert asked == {path.name for path in FORMS} and len(FORMS) == 3


@pytest.mark.parametrize("path", [*FORMS, DOCS / "PULL_REQUEST_TEMPLATE.md"], ids=lambda path: path.stem)
def test_what_a_form_names_is_there(path):
    root, text = DOCS.parent, path.read_text(encoding="utf-8")
    for named in re.findall(r"`([\w/]+\.md)`", text):
        assert (root / named).is_file(), named
    targets = re.findall(r"^([\w-]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"`make (\w+)`", text):
        assert target in targets
    for heading in re.findall(r'"([^"]+)" in `docs/CONTRIBUTING.md`', text):
        assert f"## {heading}\n" in PAGE.read_text(encoding="utf-8")
