"""Two processes, of which one gets a signal, stop after the same step and go on to the same bits."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch


def test_two_processes_stop_together_and_go_on_with_generators_of_their_own(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "-m", "tests.callbacks.exact_resume_processes", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for each in (first, second):
        assert each["status"] == 128 + signal.SIGTERM
        # the signal came in the fifth step
        assert each["saved"] == 5
        assert each["whole"].keys() == each["rest"].keys()
        for name, value in each["whole"].items():
            assert torch.equal(value, each["rest"][name]), name
    assert not torch.equal(first["rest"]["drawn"], second["rest"]["drawn"])
