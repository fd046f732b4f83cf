"""The command ``lightning-advreg ablate``."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from lightning_advreg.ablation.cluster import Ray
from lightning_advreg.ablation.conduct import Ablation
from lightning_advreg.ablation.launchers import Launcher
from lightning_advreg.ablation.local import Local
from lightning_advreg.ablation.plan import Axis, Plan, read_seeds, read_variants
from lightning_advreg.ablation.results import FINISHED
from lightning_advreg.ablation.runs import make_runs
from lightning_advreg.ablation.sweep import write_sweep
from lightning_advreg.config_files import find_configs

_EXAMPLE = (
    "example: lightning-advreg ablate --config digits_regularized --axis network.norm=batch,group,none "
    "--axis dropout=0,0.3 --seeds 3. Further arguments, such as --trainer.max_epochs 5, are those of `fit`."
)
_INTERRUPTED = 130


def main(args: Sequence[str]) -> int:
    """Run an ablation from the command line.

    Args:
        args: The arguments behind ``ablate``; those it does not know go to ``fit``.

    Returns:
        The exit status: 0, 1 if a run has failed, 130 after Ctrl+C.
    """
    parser = _parser()
    options, arguments = parser.parse_known_args(args)
    try:
        plan = _plan(options, arguments)
        launcher = _launcher(options)
        with Console(stderr=True).status(f"Checking the configurations of {len(plan.cells)} cells"):
            runs = make_runs(plan, options.out)
        if options.export_wandb_sweep:
            write_sweep(plan, runs, options.export_wandb_sweep)
            sys.stdout.write(f"The sweep of {len(runs)} runs is in {options.export_wandb_sweep}; nothing was run.\n")
            return 0
        metrics = options.metrics.split(",") if options.metrics else None
        ablation = Ablation(
            plan=plan, runs=runs, out=options.out, launcher=launcher, metrics=metrics, replace=options.replace
        )
        outcomes = ablation.conduct()
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\nStopped. What is finished is in {options.out}; the same command continues where this one was.\n"
        )
        return _INTERRUPTED
    return 0 if all(outcome.state == FINISHED for outcome in outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-advreg ablate", description="Train and test every cell of an ablation, and compare.",
        epilog=_EXAMPLE, allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("--axis", action="append", default=[], metavar="PATH=VALUE,VALUE", help="vary a value; as often as needed")
    add("--variants", metavar="FILE", help="YAML of named sets of changes, one's own or one that comes along")
    add("--seeds", metavar="N|LIST", help="how many seeds, or which, such as 0,5,7 (1)")
    add("--baseline", metavar="CELL", help="the cell that others are compared with (the first)")
    add("--out", type=Path, default=Path("runs/ablation"), help="folder to write to (runs/ablation)")
    add(
        "--metrics",
        metavar="NAME,NAME",
        help="what the table shows; ends of names will do (the accuracies of the test)",
    )
    add("--jobs", type=int, metavar="N", help="runs at once on this machine (1)")
    add("--threads", type=int, help="CPU threads of a run (local: an equal share; ray: 1, and as many are reserved)")
    add("--replace", action="store_true", help="run again where the configuration has changed; old runs are kept aside")
    add("--launcher", choices=("local", "ray"), default="local", help="on this machine (local), or on a Ray cluster")
    add("--gpus", type=float, default=0, help="GPUs that a run reserves on the Ray cluster (0)")
    add("--ray-address", default="", help="of a running Ray cluster, or auto to find it (start one here)")
    add("--export-wandb-sweep", type=Path, metavar="FILE", help="write a W&B sweep of the same runs, and run nothing")
    return parser


def _plan(options: argparse.Namespace, arguments: Sequence[str]) -> Plan:
    for argument in arguments:
        if argument.partition("=")[0] in ("--seed", "--ckpt_path"):
            raise ValueError(f"{argument.partition('=')[0]} is not for ablations; seeds are given by --seeds.")
    settings: dict[str, Any] = {}
    if options.variants:
        settings = read_variants(Path(find_configs(["--config", options.variants])[1]))
    given = any(argument.partition("=")[0] in ("--config", "-c") for argument in arguments)
    # a configuration that the command names takes the place of the file's
    settings["arguments"] = (*(() if given else settings.get("arguments", ())), *arguments)
    settings["axes"] = (*settings.get("axes", ()), *map(Axis.parse, options.axis))
    if options.seeds is not None:
        settings["seeds"] = read_seeds(options.seeds)
    plan = Plan(**settings)
    return plan if options.baseline is None else replace(plan, baseline=options.baseline)


def _launcher(options: argparse.Namespace) -> Launcher:
    if options.launcher == "ray":
        if options.jobs is not None:
            raise ValueError("--jobs is for --launcher local; a Ray cluster runs as many at once as it has room for.")
        threads = 1 if options.threads is None else options.threads
        return Ray(threads=threads, gpus=options.gpus, address=options.ray_address)
    if options.gpus or options.ray_address:
        raise ValueError("--gpus and --ray-address are for --launcher ray.")
    return Local(jobs=1 if options.jobs is None else options.jobs, threads=options.threads)
