import dataclasses
import tempfile

import pytest
import torch
from lightning.pytorch import Callback

from benchmarks.callbacks import beyond, sizes
from benchmarks.long_run import LIMITS, STEPS_PER_EPOCH, Sample, growing, run

STEPS = 3 * STEPS_PER_EPOCH
# in so few steps the allocator, what Python caches and what waits for the next look still move; a tensor that each step
# keeps makes 1,000 tensors, its graph over 100 MiB
SHORT = {**LIMITS, "resident": 100 * 2**20, "tensors": 900.0, "objects": 100_000.0, "written": 2.0**21}


@pytest.fixture(autouse=True)
def folder_for_temporary_files(tmp_path_factory, monkeypatch):
    # that of the machine belongs to others too
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


class Keeping(Callback):
    """What a leak looks like: the losses of all steps, with their graphs."""

    def __init__(self):
        self.kept = []

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.kept.append(sum(p.sum() for p in pl_module.network.parameters()))


@pytest.mark.parametrize("module", ["adversarial", "regularized", "gan"])
def test_nothing_grows_over_three_epochs_and_the_checkpoint_is_small(tmp_path, module):
    samples, _ = run(module, STEPS, tmp_path)
    assert samples[-1].step == STEPS
    assert growing(samples, STEPS_PER_EPOCH, SHORT) == {}
    # config of the logger aside: metrics, hyper-parameters, the last checkpoint and the same by its epoch
    assert samples[-1].files <= 5
    checkpoint = torch.load(next(tmp_path.rglob("last.ckpt")), weights_only=True)
    parts = sizes(checkpoint)
    assert 0 < beyond(parts) < 60_000
    assert parts["state_dict"] > 10_000


def test_a_callback_that_keeps_graphs_is_found_out(tmp_path):
    samples, _ = run("regularized", 2 * STEPS_PER_EPOCH, tmp_path, [Keeping()])
    assert {"tensors", "graphs"} <= growing(samples, 0, SHORT).keys()


def test_growth_is_per_thousand_steps_and_from_a_step_on():
    flat = Sample(
        step=0,
        seconds=0,
        resident=0,
        tensors=9,
        graphs=0,
        objects=0,
        descriptors=3,
        files=2,
        pictures=0,
        written=0,
        temporary=0,
    )
    course = [
        dataclasses.replace(flat, step=step, tensors=9 + step // 10, files=2 + (step >= 200))
        for step in (0, 200, 400, 600)
    ]
    assert growing(course) == {"tensors": pytest.approx(100)}
    assert growing(course, since=0).keys() == {"tensors", "files"}
    assert growing(course, limits={"tensors": 101.0}) == {}
