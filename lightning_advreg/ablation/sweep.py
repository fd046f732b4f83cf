"""The same plan as a sweep of Weights & Biases, for those who prefer its agents."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_advreg.ablation.configuration import resolve
from lightning_advreg.ablation.levels import as_flag
from lightning_advreg.ablation.paths import find_path
from lightning_advreg.ablation.plan import Plan
from lightning_advreg.ablation.runs import Run, full_flags
from lightning_advreg.config_files import find_configs
from lightning_advreg.files import write_text

_OF_THE_RUN = '"$@" --trainer.logger=WandbLogger --trainer.default_root_dir="runs/sweep/$WANDB_RUN_ID"'


def write_sweep(plan: Plan, runs: Sequence[Run], path: Path, metric: str = "val/acc") -> None:
    """Write the YAML file of a grid sweep that calls ``lightning-advreg fit`` once for each run.

    A plan of axes becomes a parameter for each axis and one for the seeds. Variants change what no single parameter can
    say, so their runs are written as configurations into a folder beside the file, and the sweep's parameter chooses
    among these. ``wandb sweep FILE`` registers it, ``wandb agent ID`` runs it, on systems with a POSIX shell. A sweep
    of axes varies ``seed_everything`` alone, and the data keep the seed of the configuration.

    Args:
        plan: What to run.
        runs: Its runs.
        path: The file.
        metric: What the sweep's page sorts by; a grid does not search.
    """
    if plan.variants:
        arguments: list[str] = []
        parameters: dict[str, Any] = {"config": {"values": _configurations(runs, path)}}
    else:
        common = full_flags(plan.common, resolve(plan.arguments), plan)
        arguments = [*_absolute(find_configs(plan.arguments)), *common]
        base = resolve(arguments)
        parameters = {
            find_path(axis.path, base): {"values": [_parameter(value) for value in axis.values]} for axis in plan.axes
        }
        parameters["seed_everything"] = {"values": list(plan.seeds)}
    fit = shlex.join(["lightning-advreg", "fit", *arguments])
    sweep = {
        "program": "lightning-advreg",
        "name": "ablation",
        "method": "grid",
        "metric": {"name": metric, "goal": "maximize"},
        "parameters": parameters,
        # the shell knows the run, so that runs of several agents do not write into one folder
        "command": ["${env}", "sh", "-c", f"exec {fit} {_OF_THE_RUN}", "sh", "${args}"],
    }
    comment = "# wandb sweep FILE, then wandb agent ID, from the folder that relative paths start from\n"
    write_text(path, comment + yaml.safe_dump(sweep, sort_keys=False))


def _configurations(runs: Sequence[Run], path: Path) -> list[str]:
    files = []
    for run in runs:
        file = path.with_name(f"{path.stem}_runs") / f"{run.cell.folder}_seed{run.seed}.yaml"
        write_text(file, yaml.safe_dump(dict(run.config), sort_keys=False))
        files.append(str(file.absolute()))
    return files


def _parameter(value: Any) -> Any:  # noqa: ANN401
    # an agent would write these as Python does, which YAML does not read
    return as_flag(value) if value is None or isinstance(value, bool | list | dict) else value


def _absolute(arguments: Sequence[str]) -> list[str]:
    """Make paths of configurations independent of the folder."""
    absolute = []
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if index and arguments[index - 1] in ("--config", "-c") and Path(argument).is_file():
            absolute.append(str(Path(argument).absolute()))
        elif flag == "--config" and equals and Path(value).is_file():
            absolute.append(f"--config={Path(value).absolute()}")
        else:
            absolute.append(argument)
    return absolute
