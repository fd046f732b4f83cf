"""Configurations for more processes, on top of any other; and two machines that are one, on the loopback device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lightning_advreg.callbacks import MultiGPUScaling
from lightning_advreg.cli import main

from .runs import SHORT, run

OVERLAYS = {
    "one_gpu": ("auto", 1, 1, None),
    "eight_gpus": ("ddp", 8, 1, "linear"),
    "two_nodes": ("ddp", 8, 2, "linear"),
    "slurm": ("ddp", 8, 2, "linear"),
    "torchrun": ("ddp", "auto", 1, "linear"),
}


@pytest.mark.parametrize("name", OVERLAYS)
def test_it_parses_on_top_of_another_and_keeps_its_callbacks(name, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--config", "cifar10_pgd_resnet18", "--config", f"scaling/{name}", "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)["trainer"]
    strategy, devices, nodes, rule = OVERLAYS[name]
    assert (settings["strategy"], settings["devices"], settings["num_nodes"]) == (strategy, devices, nodes)
    assert settings["accelerator"] == "gpu"
    *before, last = settings["callbacks"]
    assert [each["class_path"].rpartition(".")[2] for each in before] == [
        "RobustAccuracy",
        "AdversarialExamples",
        "ModelCheckpoint",
    ]
    assert last["class_path"].endswith("MultiGPUScaling") and last["init_args"]["learning_rate"] == rule
    if name == "slurm":
        (plugin,) = settings["plugins"]
        assert plugin["class_path"].endswith("SLURMEnvironment") and plugin["init_args"]["auto_requeue"] is True


def test_it_runs_on_one_process_of_the_cpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--config", "scaling/eight_gpus", "--trainer.devices", "1", "--trainer.callbacks.learning_rate", "sqrt"]
    cli = run("fit", "digits_adversarial", *flags, "--trainer.accelerator", "cpu")
    (scaling,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, MultiGPUScaling))
    assert (scaling.learning_rate, scaling.factor) == ("sqrt", 1)
    record = json.loads(Path("runs", "digits_adversarial", "scaling.json").read_text())
    assert record == json.loads(Path("runs", "one_process.json").read_text())
    # seven steps of PGD with a budget that grows from 0 in the first epoch
    assert record["processes"] == 1 and 0 < record["attack_passes_per_image"] <= 7.5


def start(folder, *launch):
    """Start a short fit by torchrun, on the CPU."""
    config = ["--config", "digits_adversarial", "--config", "scaling/torchrun", *SHORT]
    config += [
        "--trainer.accelerator",
        "cpu",
        "--trainer.default_root_dir",
        str(folder),
        "--trainer.log_every_n_steps=2",
    ]
    command = [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "lightning_advreg", "fit", *config]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")])
    command += ["--trainer.devices", "2" if launch[1] == "2" else "1"]
    command += ["--trainer.num_nodes", "1" if launch[1] == "2" else "2"]
    return subprocess.Popen(
        command, cwd=folder.parent, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def test_two_nodes_on_loopback_end_with_the_weights_of_two_processes(tmp_path):
    endpoint = f"127.0.0.1:{free_port()}"
    node = ["--nproc_per_node", "1", "--nnodes", "2", "--rdzv-id", "loopback", "--rdzv-backend", "c10d"]
    nodes = [*node, "--rdzv-endpoint", endpoint, "--local-addr", "127.0.0.1"]
    single = ["--nproc_per_node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    runs = [start(tmp_path / "nodes", *nodes), start(tmp_path / "nodes", *nodes), start(tmp_path / "one", *single)]
    try:
        for each in runs:
            _, errors = each.communicate(timeout=600)
            assert each.returncode == 0, errors[-3000:]
    finally:
        for each in runs:
            each.kill()
    stored = [torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("nodes", "one")]
    first, second = (checkpoint["state_dict"] for checkpoint in stored)
    assert len(first) > 4 and all(value.equal(second[name]) for name, value in first.items())
    records = [json.loads((tmp_path / name / "scaling.json").read_text()) for name in ("nodes", "one")]
    assert [(each["processes"], each["nodes"]) for each in records] == [(2, 2), (2, 1)]
    assert all(each["learning_rate_factor"] == 2 and 0 < each["lost_in_communication"] < 1 for each in records)
