"""Configurations by name: those that come with the library, and files of one's own."""

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_advreg.parsing import check_syntax


def configs_folder() -> Path:
    """Find the configurations that come with the library, in a checkout or in an installed wheel."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """Give the configurations that come with the library by their names: runs first, then what is added to them."""
    folder = configs_folder()
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (path.parent != folder, path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def shipped_config(name: str) -> Path:
    """Find a configuration that comes with the library.

    Args:
        name: Its name; ``configs/mnist_pgd.yaml``, ``mnist_pgd.yaml`` and ``mnist_pgd`` are one.

    Raises:
        SystemExit: If there is none; the message names the nearest ones.

    Example:
        >>> from lightning_advreg.config_files import shipped_config
        >>> shipped_config("mnist_pgd").name
        'mnist_pgd.yaml'
    """
    shipped = shipped_configs()
    key = name.removeprefix("configs/").removesuffix(".yaml")
    if key in shipped:
        return shipped[key]
    near = difflib.get_close_matches(key, shipped, n=3, cutoff=0.4)
    nearest = f" nearest of those that come along: {', '.join(near)};" if near else ""
    sys.exit(f"lightning-advreg: there is no configuration {name};{nearest} `lightning-advreg configs` lists them.")


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
            check_syntax(Path(name))
        except ValueError as error:
            sys.exit(f"lightning-advreg: {error}")
        return name
    if name.lstrip().startswith("{"):
        return name
    path = Path(name)
    if (
        path.suffix
        and path.parent.name
        and path.parts[0] != "configs"
        and not (configs_folder() / path.parent).is_dir()
    ):
        beside = sorted(other.name for other in path.parent.glob(f"*{path.suffix}"))
        near = difflib.get_close_matches(path.name, beside, n=3, cutoff=0.4)
        has = f"the folder has {', '.join(near or beside[:3])}" if beside else f"look at {path.parent}"
        sys.exit(
            f"lightning-advreg: there is no file {name}; {has}, or give a name that `lightning-advreg configs` lists."
        )
    return str(shipped_config(name))
