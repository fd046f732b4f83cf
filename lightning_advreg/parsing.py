"""What is wrong with a command line or a configuration, in one line in place of pages."""

import difflib
import importlib
import inspect
import os
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from lightning_advreg.commands import unknown_command

DEBUG = "JSONARGPARSE_DEBUG=true"
"""The setting of the environment that brings back the whole of an error, and where it was raised."""

_DETAILS = "\nIn full: "
_PACKAGES = (
    "lightning_advreg",
    *(
        f"lightning_advreg.{room}"
        for room in (
            *("attacks", "augmentations", "callbacks", "constraints", "data", "metrics", "modules", "networks"),
            *("objectives", "penalties", "perturbations", "schedules"),
        )
    ),
    *("lightning.pytorch.callbacks", "lightning.pytorch.loggers", "torch.optim", "torch.optim.lr_scheduler"),
)

_CLASS = re.compile(r"Problem with given class_path '([\w.]+)'")
_KEY = re.compile(r'Parser key "([\w.]+)"')
_OPTION = re.compile(r"Option '([^']+)' is not accepted")
_SUBCOMMAND_OPTION = re.compile(r"Subcommand '(\w+)' does not accept option '([^']+)'")
_UNRECOGNIZED = re.compile(r"[Uu]nrecognized arguments: --([\w.]+)")
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_SUBTYPES = re.compile(r"Subtypes: \[(.*)\]")
_REQUIRED = re.compile(r"the following arguments are required: ([\w., ]+)")
_TYPE = re.compile(r"Expected an? <class '([\w.]+)'>")
_VALUE = re.compile(r"(?:Got value|Given value): (.*)")
_LITERAL = re.compile(r"Expected a typing\.Literal\[(.*?)\][.\n]")
_NO_GPU = "No supported gpu backend found"
_NO_VALUE = re.compile(r"argument (\S+): expected (?:one|at least one) argument")
_POSITIONAL = re.compile(r"[Uu]nrecognized arguments: ([^-\s]\S*)")
_FRAME = re.compile(
    r"\s*(?:- )?(?:Does not validate|Subtypes:|Errors:|Expected an? |Given value|Got value|Problem with|Parser key)"
)
_CHOICE = re.compile(r"invalid choice: '(\w+)' \(choose from (.*?)\)")


def explain_errors(parser: Any) -> None:  # noqa: ANN401
    """Let a parser say in one line what is wrong, and what comes nearest, in place of what jsonargparse says.

    With ``JSONARGPARSE_DEBUG=true``, and where the parser does not leave the process, all of it follows.

    Args:
        parser: The parser of a command line or of one of its subcommands. Parsers that jsonargparse makes of it for
            classes stay as they are, since their errors become part of its own.
    """
    plain = parser.error

    def error(message: str, ex: Exception | None = None) -> NoReturn:
        said = None if _DETAILS in message else told(message, _keys(parser))
        if said is not None and parser.exit_on_error and not in_full():
            # without the usage, which is longer than a screen
            parser.exit(2, f"error: {said}\n")
        text = message if said in (None, message) else f"{said}{_DETAILS}{message}"
        plain(text, ex)
        raise AssertionError("a parser's error does not return")

    parser.error = error


def in_full() -> bool:
    """Tell whether the environment asks for the whole of an error."""
    name, _, value = DEBUG.partition("=")
    return os.environ.get(name, "").lower() == value


def told(message: str, keys: Iterable[str] = ()) -> str:
    r"""Say in a line or two what is wrong: the explanation, or else what the message says apart from its frame.

    Args:
        message: What jsonargparse says.
        keys: The keys that are known, such as ``trainer.max_epochs``.

    Example:
        >>> told("Does not validate against any of the Union subtypes\nErrors:\n  - steps must be at least 1, got 0.")
        'steps must be at least 1, got 0.'
    """
    said = explanation(message, keys)
    if said is not None:
        return said
    lines = [line for line in message.splitlines() if line.strip()]
    # the innermost where all is frame
    telling = [line for line in lines if not _FRAME.match(line)] or sorted(lines, key=_indent, reverse=True)[:1]
    return "\n".join(
        textwrap.shorten(line.strip().removeprefix("- "), 600 // len(telling[:2]), placeholder=" …")
        for line in telling[:2]
    )


def explanation(message: str, keys: Iterable[str] = ()) -> str | None:
    """Say in one line what is wrong, and what comes nearest.

    Args:
        message: What jsonargparse says.
        keys: The keys that are known, such as ``trainer.max_epochs``.

    Returns:
        The line; None for a message of another kind, which is left as it is.

    Example:
        >>> explanation("Subcommand 'fit' does not accept option 'trainer.max_epoch'", ["trainer.max_epochs", "model"])
        "there is no setting 'trainer.max_epoch'; did you mean trainer.max_epochs?"
    """
    keys = list(keys)
    if _NO_GPU in message:
        return (
            "PyTorch finds no GPU that it can use; set trainer.accelerator to cpu (--trainer.accelerator cpu), or "
            "install the PyTorch that is made for yours."
        )
    if found := _SUBCOMMAND_OPTION.search(message) or _UNRECOGNIZED.search(message):
        return _unknown_key(found.groups()[-1], keys)
    if found := _OPTION.search(message):
        return _unknown_argument(found.group(1), _last(_CLASS, message[: found.start()]))
    if found := _NO_CLASS.search(message):
        return _unknown_class(message, found)
    if found := _REQUIRED.search(message):
        return _missing(found.group(1), _last(_CLASS, message[: found.start()]))
    if found := _CHOICE.search(message):
        return unknown_command(found.group(1))
    if found := _NO_VALUE.search(message):
        return f"{found.group(1)} needs a value, and has none; give one behind it."
    if found := _POSITIONAL.search(message):
        word = found.group(1)
        return f"{word!r} has no flag in front of it; a configuration is given by --config {word}."
    return _wrong_type(message)


def check_syntax(path: Path) -> None:
    """Check that a configuration file can be read as YAML.

    Args:
        path: The file.

    Raises:
        ValueError: If it cannot; the message names the file and the line.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for _ in yaml.parse(file, Loader=yaml.SafeLoader):
                pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f", line {mark.line + 1}"
        raise ValueError(
            f"{path}{line}: this is no YAML: {error.problem or error.context}; close brackets and quotes, and indent "
            "with spaces."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is no text in UTF-8, as YAML is; give a configuration, such as configs/quickstart.yaml."
        ) from error


def _unknown_key(key: str, keys: list[str]) -> str:
    first = key.partition(".")[0]
    if any(known.partition(".")[0] == first for known in keys):
        near = _nearest(key, [known for known in keys if known.startswith(f"{first}.")])
    else:
        near = _nearest(first, sorted({known.partition(".")[0] for known in keys}))
    return f"there is no setting {key!r}{near}"


def _unknown_argument(key: str, class_path: str | None) -> str:
    first = key.partition(".")[0]
    if difflib.get_close_matches(first, ("init_args", "class_path"), n=1, cutoff=0.8):
        return f"there is no key {first!r} beside class_path{_nearest(first, ('init_args', 'class_path'))}"
    name = "the class" if class_path is None else class_path.rpartition(".")[2]
    arguments = _arguments(class_path)
    takes = f" It takes {', '.join(arguments)}." if arguments else ""
    return f"{name} has no argument {first!r}{_nearest(first, arguments)}{takes}"


def _unknown_class(message: str, found: re.Match[str]) -> str:
    name, before = found.group(1), message[: found.start()]
    # those of the innermost key: of an outer one, they are the types of what has the key
    subtypes = _last(_SUBTYPES, before[before.rfind("Parser key") :]) or ""
    bases = [_imported(path) for path in re.findall(r"[\w.]+\.\w+", subtypes)]
    kinds = tuple(base for base in bases if inspect.isclass(base))
    known = _classes()
    fitting = [key for key, one in known.items() if not kinds or issubclass(one, kinds)]
    key = _last(_KEY, before)
    where = "" if key is None else f" for {key}"
    near = _nearest(name.rpartition(".")[2], fitting or list(known))
    return f"there is no class {name!r}{where}{near} Classes of your own need their whole path, my_package.MyClass."


def _missing(names: str, class_path: str | None) -> str:
    if class_path is None:
        missing = ", ".join(name.strip().rpartition(".")[2] for name in names.split(","))
        return f"there is no {missing}; give a configuration (--config quickstart), or --model and --data."
    name = class_path.rpartition(".")[2]
    return f"{name} needs {names.strip()}, which is not given; add it to the init_args of {name}."


def _wrong_type(message: str) -> str | None:
    keys = list(_KEY.finditer(message))
    if not keys:
        return None
    rest = message[keys[-1].end() :]
    types = list(dict.fromkeys(name for name in _TYPE.findall(rest) if name != "NoneType"))
    literals = list(dict.fromkeys(one for found in _LITERAL.findall(f"{rest}\n") for one in found.split(", ")))
    value = _VALUE.search(rest)
    if not (types or literals) or value is None:
        return None
    inside = _last(_CLASS, message[: keys[-1].start()])
    owner = "" if inside is None else f" of {inside.rpartition('.')[2]}"
    if literals:
        return f"{keys[-1].group(1)}{owner} must be one of {', '.join(literals)}, got {value.group(1)!r}."
    wanted = " or ".join(types)
    return f"{keys[-1].group(1)}{owner} must be of type {wanted}, got {value.group(1)!r}; give a value of that type."


def _nearest(name: str, known: Iterable[str]) -> str:
    # by lower case too: relu and ReLU are as near as can be
    by_lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(by_lower[one] for one in near)}?" if near else "."


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return found[-1] if found else None


def _keys(parser: Any) -> list[str]:  # noqa: ANN401
    chosen = getattr(parser, "_subcommands_action", None)
    parsers = [parser] if chosen is None else [parser, *chosen.choices.values()]
    found = {action.dest for one in parsers for action in one._actions}
    return sorted(key for key in found if not key.endswith(".help"))


def _imported(path: str) -> object:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _arguments(class_path: str | None) -> list[str]:
    found = None if class_path is None else _imported(class_path)
    if not callable(found):
        return []
    return [name for name in inspect.signature(found).parameters if name not in ("args", "kwargs")]


def _classes() -> dict[str, type]:
    found: dict[str, type] = {}
    for package in _PACKAGES:
        for name, value in vars(importlib.import_module(package)).items():
            if inspect.isclass(value) and not name.startswith("_"):
                found.setdefault(name, value)
    return found
