"""The methods that docs/CONTRIBUTING.md adds, run as they stand there."""

import doctest
import re
import sys
import types
from pathlib import Path

import pytest

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
