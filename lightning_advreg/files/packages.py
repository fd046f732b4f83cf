"""Which packages a configuration or a checkpoint may name classes of."""

import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence

from lightning_advreg.files.refused import RefusedFile

VARIABLE = "LIGHTNING_ADVREG_ALLOW_PACKAGES"
"""The environment variable that lists the allowed packages, with spaces or commas between them."""

_KNOWN = ("lightning_advreg", "torch", "torchvision", "lightning", "pytorch_lightning", "torchmetrics", "timm")
_SUBCOMMANDS = ("fit", "validate", "test", "predict")
_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


def read_packages(text: str, source: str) -> list[str]:
    """Read a list of packages.

    Args:
        text: Import paths, with spaces or commas between them.
        source: Where the text comes from, for the message.

    Raises:
        ValueError: If there is none, or one is no import path.

    Example:
        >>> read_packages("lightning_advreg, torch.optim", "--allow_packages")
        ['lightning_advreg', 'torch.optim']
    """
    packages = text.replace(",", " ").split()
    wrong = [name for name in packages if not _is_import_path(name)]
    if not packages or wrong:
        raise ValueError(
            f"{source} must list packages such as lightning_advreg torch, got {wrong[0] if wrong else text!r}."
        )
    return packages


def listed_packages() -> list[str] | None:
    """Give the packages that the environment variable lists; None where it is not set.

    Raises:
        ValueError: If it holds anything else.
    """
    text = os.environ.get(VARIABLE)
    return None if text is None else read_packages(text, VARIABLE)


def take_packages(arguments: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Take ``--allow_packages PACKAGE ...`` out of a command line.

    Args:
        arguments: Command-line arguments. The list of packages ends at the next flag or subcommand.

    Returns:
        The other arguments, and the packages; without the flag those of the environment variable, or None.

    Raises:
        ValueError: If the list is empty or holds anything but import paths.

    Example:
        >>> take_packages(["fit", "--allow_packages", "lightning_advreg", "torch", "--config", "quickstart"])
        (['fit', '--config', 'quickstart'], ['lightning_advreg', 'torch'])
    """
    flag = "--allow_packages"
    others: list[str] = []
    listed: list[str] | None = None
    taking = False
    for argument in arguments:
        if argument == flag or argument.startswith(f"{flag}="):
            listed = (listed or []) + [part for part in argument.partition("=")[2:] if part]
            taking = argument == flag
        elif taking and not argument.startswith("-") and argument not in _SUBCOMMANDS:
            listed = [*(listed or []), argument]
        else:
            taking = False
            others.append(argument)
    return others, listed_packages() if listed is None else read_packages(" ".join(listed), flag)


def restrict_imports(packages: Sequence[str] | None) -> None:
    """Let the command line of this process import what its values name from some packages alone.

    The check comes before the import, so that no line of another module runs. It holds for whatever jsonargparse takes
    a class, a function or a module from: files, flags, and the hyper-parameters of checkpoints. It holds for as long as
    the process does, and for the processes that it starts, by :data:`VARIABLE`.

    Args:
        packages: The packages, or parts of them such as ``torch.optim``; None allows all but those parts of Python that
            run commands, read pickles or change files, which jsonargparse lists.
    """
    from jsonargparse import set_parsing_settings

    if packages is None:
        set_parsing_settings(import_path_denylist=[])
    else:
        os.environ[VARIABLE] = " ".join(packages)
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=list(packages),
            # a mapping for an argument of any type stays a mapping
            instantiate_subclass_spec_in_any=False,
        )


def check_class_paths(values: Mapping[str, object], name: str) -> None:
    """Check that hyper-parameters of a checkpoint name nothing that would have to be imported from elsewhere.

    A checkpoint says by name which classes to rebuild a module from, and importing a module runs it. Allowed are this
    library, torch, torchvision, lightning, torchmetrics and timm, and what the program has imported itself, but for
    Python's own modules; where :data:`VARIABLE` is set, what it lists.

    Args:
        values: The hyper-parameters.
        name: The file, for the message.

    Raises:
        RefusedFile: If they name anything else.

    Example:
        >>> check_class_paths({"attack": {"class_path": "lightning_advreg.attacks.PGD"}}, "a.ckpt")
        >>> check_class_paths({"network": {"class_path": "subprocess.Popen"}}, "a.ckpt")
        Traceback (most recent call last):
        ...
        lightning_advreg.files.refused.RefusedFile: a.ckpt names subprocess.Popen, which is a part of Python and no ...
    """
    instantiator = values.get("_instantiator", _INSTANTIATOR)
    if instantiator != _INSTANTIATOR:
        raise RefusedFile(f"{name} asks to be rebuilt by {instantiator!r}, and only {_INSTANTIATOR} does that.")
    listed = listed_packages()
    pending: list[object] = [values]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
        elif isinstance(value, str) and "." in value and _is_import_path(value.strip()):
            _check_path(value.strip(), name, listed)


def _check_path(path: str, name: str, listed: Sequence[str] | None) -> None:
    root = path.partition(".")[0]
    if listed is not None:
        reason = (
            None if _within(path, listed) or not _exists(root) else f"which is outside of {VARIABLE}={' '.join(listed)}"
        )
        remedy = f"add {root} to it"
    elif root in sys.stdlib_module_names:
        reason, remedy = "which is a part of Python and no class to build a module from", "give the argument yourself"
    elif root in _KNOWN or _is_imported(path) or not _exists(root):
        # text such as `val.acc` has dots too
        reason = remedy = None
    else:
        reason, remedy = f"and {root} is not imported here", f"import {path.rpartition('.')[0]} first"
    if reason is None and (owner := _owner(path)) is not None:
        # torch.os.system is within torch by name alone
        foreign = owner.partition(".")[0] in sys.stdlib_module_names if listed is None else not _within(owner, listed)
        if foreign:
            reason, remedy = f"which is {owner}", "give the argument yourself"
    if reason is not None:
        raise RefusedFile(
            f"{name} names {path}, {reason}. Nothing of it was run. If you trust the file, {remedy}: "
            "load_from_checkpoint(path, argument=...) replaces what it names."
        )


def _within(path: str, packages: Sequence[str]) -> bool:
    return any(path == package or path.startswith(f"{package}.") for package in packages)


def _is_import_path(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _is_imported(path: str) -> bool:
    package = path.rpartition(".")[0]
    return package in sys.modules or package.rpartition(".")[0] in sys.modules


@functools.cache
def _exists(root: str) -> bool:
    try:
        # of a name without dots, this imports nothing
        return root in sys.modules or importlib.util.find_spec(root) is not None
    except (ImportError, ValueError):
        return True


def _owner(path: str) -> str | None:
    """Give the import path under which a class or function was defined; None if there is none."""
    root, *attributes = path.split(".")
    try:
        found: object = importlib.import_module(root)
        place = root
        for attribute in attributes:
            place = f"{place}.{attribute}"
            found = getattr(found, attribute) if hasattr(found, attribute) else importlib.import_module(place)
    except (ImportError, AttributeError):
        return None
    if isinstance(found, type) or callable(found):
        return f"{getattr(found, '__module__', None) or 'builtins'}.{getattr(found, '__qualname__', '')}"
    return None
