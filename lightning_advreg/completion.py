"""What a shell completes: commands, and the names of configurations."""

import argparse
import importlib
from typing import Any

from lightning_advreg.commands import COMMANDS
from lightning_advreg.config_files import shipped_configs
from lightning_advreg.zoo.cards import models


def complete() -> None:
    """Answer a shell that asks through argcomplete what comes next, and end.

    Only what needs no PyTorch is completed: a shell that waits for seconds at each TAB is no help.

    Raises:
        SystemExit: After the answer.
    """
    importlib.import_module("argcomplete").autocomplete(completion_parser())


def completion_parser() -> argparse.ArgumentParser:
    """Give a parser of commands and configurations, for completion alone.

    Example:
        >>> from lightning_advreg.completion import completion_parser
        >>> completion_parser().parse_args(["fit", "--config", "quickstart"]).config
        ['quickstart']
    """
    parser = argparse.ArgumentParser(prog="lightning-advreg")
    commands = parser.add_subparsers(dest="command")
    for name, (line, module) in COMMANDS.items():
        command = commands.add_parser(name, help=line)
        if name == "configs":
            command.add_argument("name", nargs="?").completer = _configs  # type: ignore[attr-defined]
            command.add_argument("--copy", nargs="+").completer = _configs  # type: ignore[attr-defined]
        elif name == "zoo":
            command.add_argument("name", nargs="?").completer = _networks  # type: ignore[attr-defined]
        elif not module or name == "ablate":
            command.add_argument("--config", action="append").completer = _configs  # type: ignore[attr-defined]
        if not module:
            for flag in ("--ckpt_path", "--resume", "--print_config"):
                command.add_argument(flag)
    return parser


def _networks(prefix: str, **_: Any) -> list[str]:  # noqa: ANN401
    return [name for name in models() if name.startswith(prefix)]


def _configs(prefix: str, **_: Any) -> list[str]:  # noqa: ANN401
    files = importlib.import_module("argcomplete.completers").FilesCompleter(["yaml", "yml"])(prefix)
    return [*(name for name in shipped_configs() if name.startswith(prefix)), *files]
