"""What a configuration leaves out is the default of the class it names.

jsonargparse hands the settings of a default object on to whatever class a user puts in its place
(https://github.com/mauvilsa/jsonargparse/issues/460): the step size of PGD to FGSM, the label smoothing of PGDAT to
LIET.
So no signature has a default object of a kind that has subclasses.
"""

import importlib
import inspect
from types import ModuleType

import pytest
import yaml

import lightning_advreg
from lightning_advreg.attacks import Acceleration
from lightning_advreg.cli import main
from lightning_advreg.config_files import configs_folder
from lightning_advreg.modules import Engine

from .runs import RUNS

ROOMS = ("attacks", "callbacks", "constraints", "data", "modules", "networks", "objectives", "penalties")
# two sets of switches, which have no subclasses
PLAIN = (int, float, str, bool, tuple, list, dict, type(None), Engine, Acceleration)


def class_at(path):
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def inherited(given, resolved, where="model"):
    """The settings, below one that a file gives, that are neither in the file nor defaults of their class."""
    if isinstance(given, list):
        return [found for pair in zip(given, resolved, strict=True) for found in inherited(*pair, where=f"{where}[]")]
    if not isinstance(given, dict):
        return []
    if "class_path" not in given:
        return [found for key in given for found in inherited(given[key], resolved[key], f"{where}.{key}")]
    parameters = inspect.signature(class_at(resolved["class_path"])).parameters
    written = given.get("init_args") or {}
    settings = resolved.get("init_args", {})
    found = [
        f"{where}.{key}={value!r}, default {parameters[key].default!r}"
        for key, value in settings.items()
        if key not in written and isinstance(parameters[key].default, int | float | str | None)
        if value != parameters[key].default
    ]
    return [*found, *(f for key in written for f in inherited(written[key], settings[key], f"{where}.{key}"))]


def resolved_by(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["fit", *arguments, "--print_config"])
    assert caught.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", RUNS)
def test_a_shipped_configuration_means_what_it_says(name, capsys):
    given = yaml.safe_load((configs_folder() / f"{name}.yaml").read_text())
    resolved = resolved_by(capsys, "--config", name)
    assert inherited(given["model"], resolved["model"]) == []
    assert inherited(given["data"], resolved["data"], "data") == []
    assert inherited(given["trainer"]["callbacks"], resolved["trainer"]["callbacks"], "callbacks") == []


def test_a_class_named_on_the_command_line_has_its_own_defaults(capsys):
    model = ["--model", "AdversarialClassifier", "--model.network", "MNISTConvNet", "--data", "DigitsDataModule"]
    resolved = resolved_by(capsys, *model, "--model.attack", "FGSM", "--model.objective", "LIET")["model"]["init_args"]
    assert resolved["attack"]["init_args"]["step_size"] is None
    assert resolved["objective"]["init_args"]["label_smoothing"] == 0.6


@pytest.mark.parametrize("room", ROOMS)
def test_no_signature_has_a_default_object(room):
    module: ModuleType = importlib.import_module(f"{lightning_advreg.__name__}.{room}")
    classes = [found for found in vars(module).values() if inspect.isclass(found)]
    assert classes
    for found in classes:
        if not found.__module__.startswith(lightning_advreg.__name__):
            continue
        for parameter in inspect.signature(found).parameters.values():
            default = parameter.default
            fine = default is inspect.Parameter.empty or isinstance(default, PLAIN) or callable(default)
            assert fine, f"{found.__name__}({parameter.name}={default!r})"
