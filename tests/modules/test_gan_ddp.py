"""Two processes train a GAN as one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .gan_two_processes import KINDS, fit


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "-m", "tests.modules.gan_two_processes", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_end_with_the_weights_of_one(states, kind):
    single = fit(kind)
    for rank in (0, 1):
        for key, value in single.items():
            torch.testing.assert_close(states[f"{kind}-{rank}"][key], value, rtol=1e-8, atol=1e-9, msg=f"{rank} {key}")
    assert (single["generator.layer.weight"] - single["generator_ema.layer.weight"]).abs().max() > 1e-6
