"""What importing the package brings in, each seen from a fresh interpreter."""

import subprocess
import sys

import pytest

import lightning_advreg

HEAVY = ["lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics", "wandb", "matplotlib", "timm", "sklearn"]
ROOMS = ["networks", "attacks", "augmentations", "objectives", "penalties", "constraints", "values", "checks"]
ROOMS += ["parameters"]


def modules_brought_in(statement, *, after=""):
    script = (
        f"{after}\nimport sys\nbefore = set(sys.modules)\n{statement}\nprint('\\n'.join(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {line.partition(".")[0] for line in result.stdout.splitlines()}


def test_rooms_of_plain_pytorch_import_nothing_heavy():
    # torch itself may bring in what is installed beside it
    found = modules_brought_in("\n".join(f"import lightning_advreg.{room}" for room in ROOMS), after="import torch")
    assert "lightning_advreg" in found
    assert found & set(HEAVY) == set()


def test_the_package_alone_imports_not_even_torch():
    found = modules_brought_in("import lightning_advreg")
    assert "lightning_advreg" in found
    assert found & {*HEAVY, "torch"} == set()


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match=r"^module 'lightning_advreg' has no attribute 'nonexistent'$"):
        _ = lightning_advreg.nonexistent
    assert not hasattr(lightning_advreg, "__wrapped__")


@pytest.mark.parametrize("name", lightning_advreg.__all__)
def test_every_public_name_is_there(name):
    assert getattr(lightning_advreg, name) is not None
