"""Write the lower bounds of pyproject.toml as a constraints file of pip: ``python .ci/lower_bounds.py [EXTRA ...]``.

``"lightning>=2.6,!=2.6.2"`` becomes ``lightning==2.6``. What has no lower bound is left to pip.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def constraints(requirements: Iterable[str]) -> list[str]:
    """Give the lines of a constraints file that holds each requirement at its lower bound."""
    lines: list[str] = []
    for requirement in map(Requirement, requirements):
        bounds = [one.version for one in requirement.specifier if one.operator == ">="]
        lines += [f"{requirement.name}=={bound}" for bound in bounds]
    return lines


def main(extras: list[str]) -> None:
    """Print the constraints of what the library needs, and of what the extras named here add."""
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    optional = project["optional-dependencies"]
    for extra in extras:
        if extra not in optional:
            sys.exit(f"lower_bounds.py: there is no extra {extra!r} in pyproject.toml; there are {', '.join(optional)}")
    lines = constraints([*project["dependencies"], *(line for extra in extras for line in optional[extra])])
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main(sys.argv[1:])
