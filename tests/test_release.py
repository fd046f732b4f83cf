"""What a release is made of: the wheel that is built, and what is said about it."""

import ast
import re
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml
from hatchling.build import build_wheel
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import lightning_advreg
from lightning_advreg.zoo import models

REPOSITORY = Path(__file__).parents[1]
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(REPOSITORY)
        name = build_wheel(str(folder))
    with zipfile.ZipFile(folder / name) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_string(wheel.read(name).decode())


def test_every_module_and_configuration_is_in_the_wheel(wheel):
    configurations = {
        f"lightning_advreg/{path.relative_to(REPOSITORY)}" for path in REPOSITORY.glob("configs/**/*.yaml")
    }
    modules = {str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("lightning_advreg/**/*.py")}
    assert "lightning_advreg/configs/quickstart.yaml" in configurations
    assert len(modules) > 100
    assert {*configurations, *modules, "lightning_advreg/py.typed", "lightning_advreg/report/style.css"} <= set(
        wheel.namelist()
    )


def test_the_zoo_is_in_the_wheel_as_it_is_here(wheel):
    files = [path for path in REPOSITORY.glob("lightning_advreg/zoo/*/*") if path.suffix in (".md", ".safetensors")]
    assert len(files) == 2 * len(models()) > 0
    for path in files:
        assert wheel.read(str(path.relative_to(REPOSITORY))) == path.read_bytes()


def test_nothing_but_the_package_is_installed(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"lightning_advreg", f"lightning_advreg-{lightning_advreg.__version__}.dist-info"}


def test_metadata_name_version_licence_and_command(wheel, metadata):
    assert metadata["Version"] == lightning_advreg.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    folder = f"lightning_advreg-{lightning_advreg.__version__}.dist-info"
    assert "Apache License" in wheel.read(f"{folder}/licenses/LICENSE").decode()
    assert "lightning-advreg = lightning_advreg.__main__:console" in wheel.read(f"{folder}/entry_points.txt").decode()


def test_what_is_declared_of_python_agrees(metadata):
    declared = [
        found.group(1)
        for one in metadata.get_all("Classifier")
        if (found := re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", one))
    ]
    required = SpecifierSet(metadata["Requires-Python"])
    assert all(one in required for one in declared)
    oldest = min(declared, key=lambda one: int(one.partition(".")[2]))
    assert metadata["Requires-Python"] == f">={oldest}"


def test_whatever_is_imported_is_declared(metadata):
    declared = {canonicalize_name(Requirement(one).name) for one in metadata.get_all("Requires-Dist")}
    imported = set()
    for path in REPOSITORY.glob("lightning_advreg/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                imported.add(node.module.partition(".")[0])
    foreign = imported - sys.stdlib_module_names - {"lightning_advreg"}
    assert {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in foreign} <= declared


def test_every_requirement_but_torchvision_has_a_lower_bound(metadata):
    needed = [Requirement(one) for one in metadata.get_all("Requires-Dist") if "extra ==" not in one]
    unbound = {one.name for one in needed if not any(bound.operator == ">=" for bound in one.specifier)}
    assert unbound == {"torchvision"}


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "docs" / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == lightning_advreg.__version__
    assert citation["license"] == "Apache-2.0"
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_lower_bounds_become_constraints(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / ".ci")
    from lower_bounds import constraints

    assert constraints(["lightning>=2.6,!=2.6.2", "torchvision", "jsonargparse[signatures]>=4.53,<5"]) == [
        "lightning==2.6",
        "jsonargparse==4.53",
    ]
