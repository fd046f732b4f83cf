"""Compiled training in two processes."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD
from lightning_advreg.modules import Engine, compilation
from lightning_advreg.objectives import TRADES

from .parts import conv, trainer
from .two_processes import batches

_PROGRAM = [
    "torch.distributed.run",
    "--nproc_per_node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
    "-m",
]


@pytest.mark.slow
def test_two_processes_train_compiled_as_they_do_without(tmp_path):
    command = [sys.executable, "-m", *_PROGRAM, __name__, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    weights = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("*.pt")}
    for name, value in weights["eager-0"].items():
        for other in ("eager-1", "compiled-0", "compiled-1"):
            if "running" not in name:
                torch.testing.assert_close(weights[other][name], value, rtol=0, atol=1e-9)
    torch.testing.assert_close(weights["compiled-1"], weights["eager-1"], rtol=0, atol=1e-9)


def main():
    warnings.simplefilter("ignore")
    warnings.filterwarnings("error", message=".*without torch.compile.*")
    compilation._BACKEND = "aot_eager"
    rank = int(os.environ["RANK"])
    for name, engine in (("compiled", Engine(compile=True, attack_copy=False, channels_last=True)), ("eager", None)):
        torch.manual_seed(1)
        model = AdversarialClassifier(
            conv(norm="batch"),
            PGD(eps=0.2, step_size=0.1, steps=2),
            TRADES(),
            engine=engine,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        )
        settings = {"use_distributed_sampler": False, "strategy": "ddp", "devices": 2, "precision": "64-true"}
        trainer(max_epochs=2, **settings).fit(model, batches(16, rank, 2))
        torch.save(model.network.state_dict(), Path(sys.argv[1]) / f"{name}-{rank}.pt")


if __name__ == "__main__":
    main()
