"""What an ablation runs: cells, each with what it changes, and seeds."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_advreg.ablation.levels import as_flag, folder_name, level_name, read_levels, read_yaml
from lightning_advreg.ablation.paths import short_path


@dataclass(frozen=True, kw_only=True)
class Override:
    """One value that a cell changes.

    Args:
        path: Where, as a full or a short path.
        value: The plain value.
        append: Add to the list there, in place of replacing it.
    """

    path: str
    value: Any
    append: bool = False

    def flag(self, path: str) -> str:
        """Write it for the command line.

        Args:
            path: The full path.
        """
        return f"--{path}{'+' if self.append else ''}={as_flag(self.value)}"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A value that is varied.

    Args:
        path: Where, as a full or a short path; ``data.train_size`` is one like any other.
        values: What is tried there, two or more.

    Raises:
        ValueError: If there are fewer than two values, or one comes twice.

    Example:
        >>> Axis.parse("network.norm=batch,group,none").values
        ('batch', 'group', 'none')
    """

    path: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        names = [level_name(value) for value in self.values]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(
                f"axis {self.path!r} needs two or more different values, got {', '.join(names) or 'none'}."
            )

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """Read ``path=value,value`` or ``path=[value, value]``.

        Args:
            text: What stands behind ``--axis``.

        Raises:
            ValueError: If it is neither.
        """
        path, equals, values = text.partition("=")
        if not equals or not path.strip():
            raise ValueError(f"--axis must be PATH=VALUE,VALUE such as network.norm=batch,group, got {text!r}.")
        return cls(path=path.strip(), values=tuple(read_levels(values)))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A named set of changes.

    Args:
        name: Its name.
        overrides: What it changes, in order.
    """

    name: str
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A combination that is trained once for each seed.

    Args:
        name: Such as ``norm=batch,dropout=0.3``, or that of its variant.
        folder: The name made fit for a file system.
        levels: For each axis its level, as text.
        overrides: What it changes, in order.
    """

    name: str
    folder: str
    levels: Mapping[str, str]
    overrides: tuple[Override, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A base configuration, what is varied, and the seeds: cells are the variants times the product of the axes.

    Args:
        arguments: Of ``lightning-advreg fit``: the base configuration and flags.
        axes: What is varied.
        variants: Named sets of changes.
        common: Changes that every cell makes, before its own.
        seeds: Different integers of 0 or more. Each is ``seed_everything`` of a run, and the ``seed`` of its data,
            where they have one, so that comparisons over seeds cover the choice of the data as well. ``{seed}`` in a
            value, such as ``data.extra_path: generated_{seed}.npz``, stands for it.
        baseline: The name of the cell that others are compared with; the first where it is empty.

    Raises:
        ValueError: If nothing is varied, names or seeds come twice, or there is no cell of the baseline's name.

    Example:
        >>> plan = Plan(axes=(Axis.parse("norm=batch,none"), Axis.parse("dropout=0,0.3")), seeds=(0, 1))
        >>> [cell.name for cell in plan.cells]
        ['norm=batch,dropout=0', 'norm=batch,dropout=0.3', 'norm=none,dropout=0', 'norm=none,dropout=0.3']
        >>> plan.baseline_cell.name
        'norm=batch,dropout=0'
    """

    arguments: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()
    variants: tuple[Variant, ...] = ()
    common: tuple[Override, ...] = ()
    seeds: tuple[int, ...] = (0,)
    baseline: str = ""
    cells: tuple[Cell, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.axes and not self.variants:
            raise ValueError("nothing is varied; give --axis PATH=VALUE,VALUE or --variants FILE.")
        names = [variant.name for variant in self.variants]
        for what, given in (
            ("paths of axes", [axis.path for axis in self.axes]),
            ("names of variants", names),
            ("seeds", self.seeds),
        ):
            if len(set(given)) < len(given):
                raise ValueError(f"{what} must differ, got {', '.join(map(str, given))}.")
        if not self.seeds or any(
            isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in self.seeds
        ):
            raise ValueError(f"seeds must be integers of 0 or more, at least one, got {list(self.seeds)}.")
        object.__setattr__(self, "cells", tuple(self._cells()))
        if self.baseline and self.baseline not in [cell.name for cell in self.cells]:
            listed = ", ".join(cell.name for cell in self.cells)
            raise ValueError(f"there is no cell {self.baseline!r} to be the baseline; cells are {listed}.")

    @property
    def baseline_cell(self) -> Cell:
        """The cell that others are compared with."""
        return next((cell for cell in self.cells if cell.name == self.baseline), self.cells[0])

    @property
    def factors(self) -> tuple[str, ...]:
        """The names of what is varied: ``variant`` if there are any, and the axes."""
        return (("variant",) if self.variants else ()) + tuple(self._axis_names())

    def _axis_names(self) -> list[str]:
        ends = [short_path(axis.path).rpartition(".")[2] for axis in self.axes]
        alone = [end if ends.count(end) == 1 and end != "variant" else "" for end in ends]
        return [end or short_path(axis.path) for end, axis in zip(alone, self.axes, strict=True)]

    def _cells(self) -> list[Cell]:
        cells: list[Cell] = []
        taken: set[str] = set()
        names = self._axis_names()
        for variant in self.variants or (None,):
            for values in itertools.product(*(axis.values for axis in self.axes)):
                levels = {name: level_name(value) for name, value in zip(names, values, strict=True)}
                changes = [f"{name}={level}" for name, level in levels.items()]
                overrides = tuple(
                    Override(path=axis.path, value=value) for axis, value in zip(self.axes, values, strict=True)
                )
                if variant is not None:
                    levels, changes = {"variant": variant.name, **levels}, [variant.name, *changes]
                    overrides = variant.overrides + overrides
                name = ",".join(changes)
                folder = folder_name(name, taken)
                cells.append(Cell(name=name, folder=folder, levels=levels, overrides=self.common + overrides))
        return cells


def read_variants(path: Path) -> dict[str, Any]:
    """Read a YAML file of named variants.

    Its keys are ``variants`` (from a name to a mapping from paths to values; a path that ends in ``+`` adds to the list
    there), and, all optional, ``config`` (the base configuration), ``common`` (changes that every cell makes, before
    its own), ``axes`` (from paths to lists of values), ``seeds`` and ``baseline``.

    Args:
        path: The file.

    Returns:
        Arguments of :class:`Plan`: those that the file gives.

    Raises:
        ValueError: If the file says something else.
        FileNotFoundError: If there is no such file.
    """
    content = read_yaml(path.read_text())
    known = ("config", "common", "variants", "axes", "seeds", "baseline")
    if not isinstance(content, dict) or not content or set(content) - set(known):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else repr(content)
        raise ValueError(f"{path} must have keys out of {', '.join(known)}, got {found or 'none'}.")
    settings: dict[str, Any] = {}
    if "config" in content:
        settings["arguments"] = ("--config", str(content["config"]))
    for key in ("variants", "axes"):
        if not isinstance(content.get(key, {}), dict):
            raise ValueError(f"{key} in {path} must be a mapping, got {content[key]!r}.")
    if "variants" in content:
        settings["variants"] = tuple(_variant(str(name), given, path) for name, given in content["variants"].items())
    if "common" in content:
        settings["common"] = _variant("common", content["common"], path).overrides
    if "axes" in content:
        settings["axes"] = tuple(
            Axis(path=place, values=tuple(values if isinstance(values, list) else [values]))
            for place, values in content["axes"].items()
        )
    if "seeds" in content:
        settings["seeds"] = read_seeds(content["seeds"])
    if "baseline" in content:
        settings["baseline"] = str(content["baseline"])
    return settings


def read_seeds(given: int | str | Sequence[int]) -> tuple[int, ...]:
    """Read seeds: how many, or which.

    Args:
        given: A count such as ``3``, for 0, 1 and 2, or a list such as ``0,5`` or ``[0, 5]``.

    Returns:
        The seeds.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> read_seeds("3"), read_seeds("[4]"), read_seeds("0,5")
        ((0, 1, 2), (4,), (0, 5))
    """
    value = given
    if isinstance(given, str):
        value = read_levels(given) if "," in given or "[" in given else read_yaml(given)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return tuple(range(value))
    if isinstance(value, Sequence) and all(isinstance(seed, int) for seed in value) and len(value):
        return tuple(seed for seed in value if isinstance(seed, int))
    raise ValueError(f"seeds must be a count such as 3 or a list such as 0,5,7, got {given!r}.")


def _variant(name: str, given: object, path: Path) -> Variant:
    if given is not None and not isinstance(given, dict):
        raise ValueError(f"variant {name!r} in {path} must map paths to values, got {given!r}.")
    overrides = (
        Override(path=key.removesuffix("=").removesuffix("+"), value=value, append=key.removesuffix("=").endswith("+"))
        for key, value in (given or {}).items()
    )
    return Variant(name=name, overrides=tuple(overrides))
