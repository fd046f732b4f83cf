"""Runs that are killed for good go on, in processes of their own."""

import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "fork") or not hasattr(signal, "SIGKILL"), reason="needs fork and SIGKILL")
def test_two_runs_that_are_killed_end_with_the_same_bits():
    command = [sys.executable, "-m", "benchmarks.kills", "--trials", "2", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n2 of 2 end with the bits of the run that was left alone" in done.stdout
