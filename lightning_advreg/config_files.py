"""Configurations by name: those that come with the library, and files of one's own."""

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_advreg.parsing import check_yaml


def configs_folder() -> Path:
    """Find the configurations that come with the library, in a checkout or in an installed wheel."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_configs(arguments: Sequence[str]) -> list[str]:
    """Replace ``--config NAME`` by the path of the shipped configuration, where no file of that name lies here.

    Args:
        arguments: Command-line arguments; ``configs/mnist_pgd.yaml``, ``mnist_pgd.yaml`` and ``mnist_pgd`` are one.

    Raises:
        SystemExit: If there is no such configuration; the message names the nearest ones.
    """
    found: list[str] = []
    for index, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if index and arguments[index - 1] in ("--config", "-c"):
            found.append(_find_config(argument))
        elif flag == "--config" and value:
            found.append(f"--config={_find_config(value)}")
        else:
            found.append(argument)
    return found


def _find_config(name: str) -> str:
    if Path(name).is_file():
        try:
            check_yaml(Path(name))
        except ValueError as error:
            sys.exit(f"lightning-advreg: {error}")
        return name
    if name.lstrip().startswith("{"):
        return name
    folder = configs_folder()
    shipped = {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}
    key = name.removeprefix("configs/").removesuffix(".yaml")
    if key in shipped:
        return str(shipped[key])
    near = difflib.get_close_matches(key, shipped, n=3, cutoff=0.4) or list(shipped)
    sys.exit(f"lightning-advreg: there is no configuration {name}; nearest of those that come along: {', '.join(near)}")
