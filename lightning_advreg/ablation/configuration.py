"""The whole configuration of a `fit`, read and checked without running it."""

import argparse
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import yaml

from lightning_advreg.cli import RunFolderCLI, command_line
from lightning_advreg.config_files import find_configs
from lightning_advreg.files.configs import check_configs
from lightning_advreg.files.packages import listed_packages, restrict_imports

_NOT_OF_THE_RUN = ("ckpt_path", "weights_only")
# they decide where results lie and how they are shown, not what they are
_WITHOUT_EFFECT = ("default_root_dir", "logger", "enable_progress_bar", "enable_model_summary")

_NOISE = ("Expected a <class 'NoneType'>", "Subtypes: ", "Does not validate against any of the Union", "  Errors:")


class _Reader(RunFolderCLI):
    """Parses the arguments of a command, and stops there."""

    def _set_seed(self) -> None: ...

    def _parse_ckpt_path(self) -> None: ...

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


def resolve(arguments: Sequence[str], *, build: bool = False) -> dict[str, Any]:
    """Give every value of the run that ``lightning-advreg fit <arguments>`` would start.

    Args:
        arguments: Command-line arguments of ``fit``.
        build: Also build model, data and callbacks once, so that classes can refuse their arguments.

    Returns:
        Plain values, defaults included.

    Raises:
        ValueError: If the command line or a class refuses an argument, with what it said.
        SystemExit: If there is no configuration of a given name.

    Example:
        >>> flags = ["--model=RegularizedClassifier", "--model.network=MNISTConvNet", "--data=DigitsDataModule"]
        >>> resolve(flags)["model"]["init_args"]["network"]["init_args"]["dropout"]
        0.0
    """
    with warnings.catch_warnings():
        # jsonargparse renamed what Lightning still calls by its old name
        warnings.simplefilter("ignore")
        try:
            restrict_imports(listed_packages())
            given = check_configs(find_configs(["fit", *arguments]))
            reader = command_line(_Reader, given, exit_on_error=False)
        except (argparse.ArgumentError, ValueError, TypeError) as error:
            raise ValueError(_plain(error)) from error
        parsed = reader.config["fit"]
        config = yaml.safe_load(reader._parser("fit").dump(parsed, skip_none=False))
        if build:
            _build(reader)
    return {key: value for key, value in config.items() if key not in _NOT_OF_THE_RUN}


def fingerprint(config: Mapping[str, Any]) -> str:
    """Give a short hash of what decides a run's results.

    Args:
        config: What :func:`resolve` gave.

    Returns:
        Twelve hexadecimal digits, the same wherever the results are written and however they are shown.

    Example:
        >>> fingerprint({"trainer": {"default_root_dir": "a"}}) == fingerprint({"trainer": {"default_root_dir": "b"}})
        True
    """
    trainer = {key: value for key, value in (config.get("trainer") or {}).items() if key not in _WITHOUT_EFFECT}
    text = json.dumps({**config, "trainer": trainer}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List where two configurations differ in what decides results.

    Args:
        old: One configuration.
        new: The other.

    Returns:
        One ``path: old -> new`` each.

    Example:
        >>> differences({"trainer": {"max_epochs": 1}}, {"trainer": {"max_epochs": 2}})
        ['trainer.max_epochs: 1 -> 2']
    """
    return list(_differences(old, new, ""))


def _differences(old: object, new: object, place: str) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            if place != "trainer" or key not in _WITHOUT_EFFECT:
                yield from _differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
    elif old != new:
        yield f"{place}: {json.dumps(old, default=str)} -> {json.dumps(new, default=str)}"


def _build(reader: RunFolderCLI) -> None:
    config = reader.config.clone()
    # loggers open files and accounts when they are built
    config["fit"]["trainer"]["logger"] = None
    try:
        with torch.random.fork_rng(devices=[]):
            reader.parser.instantiate_classes(config)
    except Exception as error:
        # classes refuse with errors of any kind, users' own included
        raise ValueError(_plain(error)) from error


def _plain(error: BaseException) -> str:
    """Leave out of jsonargparse's message what does not help: the value once more, and that it might have been None."""
    kept: list[str] = []
    for line in str(error).splitlines():
        if line.strip().startswith("Given value"):
            break
        if line.strip() and not any(noise in line for noise in _NOISE):
            kept.append(line)
    return "\n".join(kept).strip() or type(error).__name__
