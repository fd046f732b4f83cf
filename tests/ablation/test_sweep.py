"""Sweeps of Weights & Biases: what their agents would run is what the ablation would."""

import os
import subprocess

import pytest
import yaml

from lightning_advreg.ablation import Axis, Override, Plan, Variant, command, make_runs
from lightning_advreg.ablation.configuration import fingerprint, resolve
from lightning_advreg.ablation.sweep import write_sweep

from .parts import write_base


def arguments_of(sweep, folder, parameters):
    """Run the agent's command with a stand-in for the program, which tells its arguments."""
    program = folder / "bin" / "lightning-advreg"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    # what the agent puts in place of ${args}
    given = [f"--{name}={value}" for name, value in parameters.items()]
    words = [word for part in sweep["command"][1:] for word in (given if part == "${args}" else [part])]
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "WANDB_RUN_ID": "abc"}
    said = subprocess.run(words, env=environment, cwd=folder, check=True, capture_output=True, text=True).stdout
    subcommand, *arguments = said.splitlines()
    assert subcommand == "fit"
    return arguments


def agents_words(path, parameters):
    """What W&B's agent puts behind the command, by its own reading of the file."""
    wandb_sweeps = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    sweep = wandb_sweeps.load_sweep_config(str(path))
    command = wandb_sweeps.create_sweep_command(list(sweep["command"]))
    # nothing in it is a variable of the agent's, other than these two
    assert [part for part in command if "${" in part] == ["${env}", "${args}"]
    assert command == sweep["command"]
    of_run = {"args": {name: {"value": value} for name, value in parameters.items()}}
    return wandb_sweeps.create_sweep_command_args(of_run)["args"]


def test_axes_become_parameters(tmp_path):
    axes = (Axis.parse("width=4,8"), Axis.parse("weight_perturbation=null,{class_path: SAM}"))
    plan = Plan(
        arguments=("--config", str(write_base(tmp_path)), "--trainer.max_epochs", "2"),
        axes=axes,
        common=(Override(path="dropout", value=0.5),),
        seeds=(0, 3),
    )
    runs = make_runs(plan, tmp_path / "out")
    write_sweep(plan, runs, tmp_path / "sweep.yaml")
    sweep = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    assert sweep["method"] == "grid"
    assert sweep["parameters"] == {
        "model.init_args.network.init_args.width": {"values": [4, 8]},
        "model.init_args.weight_perturbation": {"values": ["null", '{"class_path": "SAM"}']},
        "seed_everything": {"values": [0, 3]},
    }
    # the run of the last cell and the first seed, whose data have the seed of the configuration
    # through the functions of W&B's own agent, which leave the command to the shell
    (given,) = agents_words(tmp_path / "sweep.yaml", {"seed_everything": 3})
    assert given == "--seed_everything=3"
    choice = {name: values["values"][-1] for name, values in sweep["parameters"].items()} | {"seed_everything": 0}
    config = resolve(arguments_of(sweep, tmp_path, choice))
    assert config["trainer"]["default_root_dir"] == "runs/sweep/abc"
    assert config["trainer"]["logger"]["class_path"].endswith("ResumableWandbLogger")
    assert fingerprint(config) == fingerprint(runs[-2].config)


def test_variants_become_configurations(tmp_path):
    variants = (Variant(name="a"), Variant(name="b", overrides=(Override(path="width", value=8),)))
    plan = Plan(arguments=("--config", str(write_base(tmp_path))), variants=variants, seeds=(0, 3))
    runs = make_runs(plan, tmp_path / "out")
    write_sweep(plan, runs, tmp_path / "sweep.yaml")
    sweep = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    files = sweep["parameters"]["config"]["values"]
    assert list(sweep["parameters"]) == ["config"]
    assert len(files) == 4
    config = resolve(arguments_of(sweep, tmp_path, {"config": files[3]}))
    assert fingerprint(config) == fingerprint(runs[3].config)


def test_the_command_writes_the_sweep_and_runs_nothing(tmp_path, capsys):
    base, out, file = write_base(tmp_path), tmp_path / "out", tmp_path / "sweep.yaml"
    arguments = ["--config", str(base), "--axis", "width=4,8", "--seeds", "3", "--out", str(out)]
    assert command.main([*arguments, "--export-wandb-sweep", str(file)]) == 0
    assert f"The sweep of 6 runs is in {file}; nothing was run." in capsys.readouterr().out
    assert yaml.safe_load(file.read_text())["parameters"]["seed_everything"] == {"values": [0, 1, 2]}
    assert not out.exists()
