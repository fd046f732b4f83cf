"""Configuration files that are looked at before they are parsed."""

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from lightning_advreg.files.refused import RefusedFile
from lightning_advreg.files.tensors import check_file, first_line

_LARGEST = 10 * 2**20
_MOST = 20_000
_DEEPEST = 60
_FLAGS = ("--config", "-c")
_ENDINGS = (".yaml", ".yml", ".json")


def check_configs(arguments: Sequence[str]) -> list[str]:
    """Check the configuration files of a command line, and those that they name.

    A few hundred bytes of YAML can stand for more values than there is time for, where each refers ten times to the one
    before; and nesting without an end breaks a parser in the middle. Both are counted here without building anything.
    What the values mean is the parser's business.

    Args:
        arguments: Command-line arguments, configurations given by their paths.

    Returns:
        The arguments.

    Raises:
        FileNotFoundError: If there is no such file.
        RefusedFile: If one is a folder, no text, larger than 10 MiB, or more than 20,000 values when references are
            written out.
    """
    for index, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if index and arguments[index - 1] in _FLAGS:
            given = argument
        elif flag in _FLAGS and value:
            given = value
        else:
            # a value may be YAML too, and only references make few letters many
            check_yaml(value or argument, f"the argument {argument[:40]!r}")
            continue
        if given.lstrip().startswith("{"):
            check_yaml(given, "the configuration given in place of a file")
        else:
            check_config(given)
    return list(arguments)


def check_config(path: str | os.PathLike[str]) -> None:
    """Check a configuration file and those that it names.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        RefusedFile: If it, or one that it names, is none that can be parsed in a moment.
    """
    pending, seen = [Path(path)], set()
    while pending:
        file = pending.pop()
        seen.add(file.absolute())
        check_file(file, "configuration", "give another one")
        if file.stat().st_size > _LARGEST:
            raise RefusedFile(f"{file} has {file.stat().st_size} bytes, and a configuration at most {_LARGEST}.")
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise RefusedFile(f"{file} is no configuration: it is not text in UTF-8 ({error.reason}).") from error
        for name in check_yaml(text, str(file)):
            for named in (file.parent / name, Path(name)):
                if named.is_file() and named.absolute() not in seen:
                    pending.append(named)


def check_yaml(text: str, name: str) -> list[str]:
    r"""Check that YAML stands for a moderate number of values, and give the files that it names.

    Text that is no YAML passes, since the parser says better what is wrong with it.

    Args:
        text: The YAML.
        name: Where it comes from, for the message.

    Returns:
        The values that end like a configuration file.

    Raises:
        RefusedFile: If there are too many values, or they are nested too deeply.

    Example:
        >>> check_yaml("a: &x [1, 2]\nb: [*x, *x, more.yaml]", "a.yaml")
        ['more.yaml']
        >>> check_yaml("a: &x [*x]", "a.yaml")
        Traceback (most recent call last):
        ...
        lightning_advreg.files.refused.RefusedFile: a.yaml refers to *x inside of it, which has no end; write it out.
    """
    sizes: list[int] = [0]
    names: list[str | None] = [None]
    anchors: dict[str, int] = {}
    found: list[str] = []
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                if event.anchor in names:
                    raise RefusedFile(f"{name} refers to *{event.anchor} inside of it, which has no end; write it out.")
                sizes[-1] += anchors.get(event.anchor or "", 1)
            elif isinstance(event, yaml.ScalarEvent):
                anchors[event.anchor or ""] = 1
                sizes[-1] += 1
                if event.value.endswith(_ENDINGS):
                    found.append(event.value)
            elif isinstance(event, yaml.CollectionStartEvent):
                sizes.append(1)
                names.append(event.anchor)
            elif isinstance(event, yaml.CollectionEndEvent):
                size = sizes.pop()
                anchors[names.pop() or ""] = size
                sizes[-1] += size
            if sizes[-1] > _MOST:
                raise RefusedFile(f"{name} stands for more than {_MOST} values when references are written out.")
            if len(sizes) > _DEEPEST:
                raise RefusedFile(f"{name} is nested more than {_DEEPEST} levels deep; no option is.")
    except yaml.YAMLError:
        return found
    except (ValueError, RecursionError, OverflowError) as error:
        if isinstance(error, RefusedFile):
            raise
        raise RefusedFile(f"{name} is no configuration: {first_line(error)}.") from error
    return found
