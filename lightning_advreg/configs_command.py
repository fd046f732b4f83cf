"""``lightning-advreg configs``: the configurations that come along, listed, printed or copied."""

import argparse
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from lightning_advreg.config_files import shipped_config, shipped_configs

_END = re.compile(r"[.:?](?=\s+[A-Z`(-])|[.:?]$|: ")


def main(args: Sequence[str]) -> int:
    """List, print or copy configurations from the command line.

    Args:
        args: The arguments behind ``configs``.

    Returns:
        The exit status: 0, or 2 if a copy cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="lightning-advreg configs", allow_abbrev=False,
        description="List the configurations that come along, print one, or copy one to change it.",
        epilog="example: lightning-advreg configs --copy mnist_trades my_configs",
    )  # fmt: skip
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one, such as mnist_trades")
    parser.add_argument("--copy", nargs="+", metavar=("NAME", "FOLDER"), help="copy one into a folder (this one)")
    options = parser.parse_args(args)
    if options.copy is not None:
        if options.name is not None or len(options.copy) > 2:
            parser.error("--copy takes one NAME and one FOLDER; give them behind it, and nothing else.")
        name, folder = options.copy[0], Path(options.copy[1] if len(options.copy) == 2 else ".")
        try:
            path = copy_config(name, folder)
        except OSError as error:
            parser.exit(2, f"{parser.prog}: error: {error}\n")
        flag = "--variants" if "ablations" in shipped_config(name).parts else "--config"
        sys.stdout.write(f"{name} is in {path}; give it as {flag} {path}\n")
    elif options.name is not None:
        sys.stdout.write(shipped_config(options.name).read_text(encoding="utf-8"))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        sys.stdout.write(listing(width))
    return 0


def listing(width: int | None = None) -> str:
    """List the configurations that come along, one a line.

    Args:
        width: The longest line, in characters; None for lines that are not cut.
    """
    shipped = shipped_configs()
    column = max(map(len, shipped)) + 2
    lines = (f"{name:<{column}}{summary(path.read_text(encoding='utf-8'))}" for name, path in shipped.items())
    return "".join(f"{line if width is None else _cut(line, width)}\n" for line in lines)


def summary(text: str) -> str:
    r"""Give what the first comment of a configuration says first.

    Args:
        text: The configuration.

    Example:
        >>> from lightning_advreg.configs_command import summary
        >>> summary("# TRADES on MNIST (Zhang et al. 2019): the objective\n# of the paper.\ntrainer: {}\n")
        'TRADES on MNIST (Zhang et al. 2019)'
    """
    comment = takewhile(lambda line: line.startswith("#"), text.splitlines())
    said = " ".join(line.removeprefix("#").strip() for line in comment)
    end = _END.search(said)
    return said if end is None else said[: end.end() - (end.group() != "?")].rstrip(" :.")


def copy_config(name: str, folder: Path) -> Path:
    """Copy a configuration that comes along into a folder, which is made where there is none.

    Args:
        name: Its name, such as ``mnist_trades`` or ``eval/autoattack``.
        folder: Where to copy it to.

    Returns:
        The path of the copy.

    Raises:
        FileExistsError: If there is a file of its name.
        SystemExit: If there is no such configuration; the message names the nearest ones.
    """
    source = shipped_config(name)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    try:
        # "x" rather than a look first, between which and the writing a file may appear
        with target.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise FileExistsError(f"{target} exists, and is not overwritten; give another folder, or move it.") from error
    return target


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else textwrap.wrap(line, width - 1, drop_whitespace=False)[0].rstrip() + "…"
