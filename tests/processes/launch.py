"""Groups of processes that many tests share, since processes take longer to start than to do what is tested.

A test module that asks for the fixture ``pair`` or ``quartet`` has a function ``in_pair(folder)`` or
``in_quartet(folder)``. Each process of one group calls those of all collected modules, one after the other, which write
files into folders of their own; a fixture gives the folder of the module that asks.
"""

import fcntl
import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import torch

SIZES = {"pair": 2, "quartet": 4}


def results(request, factory, group):
    """Give the folder of what the processes of a group have done for the module of a test."""
    base = factory.getbasetemp()
    # the workers of pytest-xdist share one folder, and one group of processes
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / group
    with (base / f"{group}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            folder.mkdir()
            modules = {item.module for item in request.session.items if hasattr(item, "module")}
            asking = {module.__name__ for module in modules if hasattr(module, f"in_{group}")}
            launch(folder, group, sorted(asking))
    finished = folder / "finished"
    assert finished.exists(), (folder / "stderr").read_text()[-4000:]
    return folder / request.module.__name__


def launch(folder, group, modules):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(SIZES[group])]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command += ["-m", "tests.processes.launch", str(folder), group, *modules]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parents[2]
    with (folder / "stderr").open("w") as errors:
        done = subprocess.run(command, cwd=root, env=environment, stderr=errors, timeout=900, check=False)
    if done.returncode == 0:
        (folder / "finished").touch()


def main():
    folder, group, modules = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    warnings.simplefilter("ignore")
    for name in modules:
        own = folder / name
        own.mkdir(exist_ok=True)
        # what a module draws does not depend on the modules before it
        torch.manual_seed(0)
        getattr(importlib.import_module(name), f"in_{group}")(own)


if __name__ == "__main__":
    main()
