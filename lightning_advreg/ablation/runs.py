"""From a plan to runs: every cell's configuration resolved and checked before the first is trained."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_advreg.ablation.configuration import fingerprint, resolve
from lightning_advreg.ablation.paths import find_path, short_path
from lightning_advreg.ablation.plan import Cell, Override, Plan

SEED = "{seed}"
"""Stands for the seed of a run in any value of a plan, such as a file that each seed has of its own."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training and its test.

    Args:
        cell: Its cell.
        seed: Its seed.
        folder: Where everything of it lies.
        config: Every value of its ``fit``.
        fingerprint: A hash of what decides its results.
    """

    cell: Cell
    seed: int
    folder: Path
    config: Mapping[str, Any]
    fingerprint: str

    @property
    def name(self) -> str:
        """What to call it in messages."""
        return f"{self.cell.name}, seed {self.seed}"


def make_runs(plan: Plan, out: Path) -> list[Run]:
    """Resolve and check the configuration of every cell, and give its runs.

    Args:
        plan: What to run.
        out: The ablation's folder.

    Returns:
        All seeds of the first cell, then those of the next.

    Raises:
        ValueError: If a path means nothing, or a cell's configuration is refused; the message names the cell.
    """
    base = resolve(plan.arguments)
    runs: list[Run] = []
    seen: dict[str, str] = {}
    for cell in plan.cells:
        try:
            flags = full_flags(cell.overrides, base, plan)
            configs = _resolve_seeds([*plan.arguments, *flags], plan.seeds)
        except ValueError as error:
            raise ValueError(f"cell {cell.name!r}: {error}") from error
        config = configs[plan.seeds[0]]
        same = seen.setdefault(fingerprint(config), cell.name)
        if same != cell.name:
            raise ValueError(
                f"cells {same!r} and {cell.name!r} have the same configuration; a later change undoes an earlier "
                "one, or a value is the default. Leave one of them out."
            )
        varied = {flag.partition("=")[0].removeprefix("--") for flag in flags}
        for seed in plan.seeds:
            folder = out / cell.folder / str(seed)
            of_seed = _with_seed(configs[seed], seed, varied, folder)
            mark = fingerprint(of_seed)
            runs.append(Run(cell=cell, seed=seed, folder=folder, config=of_seed, fingerprint=mark))
    return runs


def full_flags(overrides: tuple[Override, ...], base: Mapping[str, Any], plan: Plan) -> list[str]:
    """Write changes as flags with full paths.

    Each path is looked for in the configuration with the changes before it, since these may bring other classes.

    Args:
        overrides: The changes, in order.
        base: Every value of the base configuration.
        plan: The plan they belong to.

    Returns:
        Flags for ``fit``.

    Raises:
        ValueError: If a path means nothing, or several things.
    """
    flags: list[str] = []
    config: Mapping[str, Any] = base
    outdated: tuple[str, ...] = ()
    for override in overrides:
        try:
            path = find_path(override.path, config)
        except ValueError:
            path = ""
        if outdated and (not path or path.startswith(outdated)):
            # reading the command line anew takes a second, so it is done only where something may have changed
            config, outdated = resolve([*plan.arguments, *flags]), ()
        path = find_path(override.path, config)
        flags.append(override.flag(path))
        if _may_bring_classes(path, override, config):
            outdated = (*outdated, path)
    return flags


def _resolve_seeds(arguments: list[str], seeds: tuple[int, ...]) -> dict[int, dict[str, Any]]:
    """Resolve and check the configuration of every seed: one for all, unless a value names the seed."""
    if not any(SEED in argument for argument in arguments):
        return dict.fromkeys(seeds, resolve(arguments, build=True))
    return {seed: resolve([argument.replace(SEED, str(seed)) for argument in arguments], build=True) for seed in seeds}


def _has_data_seed(config: Mapping[str, Any]) -> bool:
    return "seed" in ((config.get("data") or {}).get("init_args") or {})


def _may_bring_classes(path: str, override: Override, config: Mapping[str, Any]) -> bool:
    here: Any = config
    for part in path.split("."):
        inner = here[-1] if isinstance(here, list) else here
        here = inner.get(part)
    if isinstance(override.value, str):
        return here is None or isinstance(here, dict | list)
    return bool(override.value) and isinstance(override.value, dict | list)


def _with_seed(config: Mapping[str, Any], seed: int, varied: set[str], folder: Path) -> dict[str, Any]:
    of_seed: dict[str, Any] = copy.deepcopy(dict(config))
    if "seed_everything" not in varied:
        of_seed["seed_everything"] = seed
    if _has_data_seed(of_seed) and "data.seed" not in map(short_path, varied):
        of_seed["data"]["init_args"]["seed"] = seed
    # the bar of a run would fill its log
    of_seed["trainer"] |= {"default_root_dir": str(folder), "enable_progress_bar": False}
    return of_seed
