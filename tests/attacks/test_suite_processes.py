"""Attacks in stages: progress on disk, runs that are killed, several processes, and memory."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from lightning_advreg.attacks import APGD, ProcessGroup, Square, attack_in_stages

from .stages import STAGES, Recording, network

FORK = multiprocessing.get_context("fork")


def test_progress_is_read_back(tmp_path):
    model, x, y = network()
    first = attack_in_stages(model, x, y, STAGES, batch_size=16, checkpoint=tmp_path / "a")
    saved = sorted(path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*.*"))
    assert saved[:4] == ["0_pgd/000000.pt", "0_pgd/000001.pt", "0_pgd/000002.pt", "1_square/000000.pt"]
    assert "manifest.json" in saved and not any("draft" in name for name in saved)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    again = attack_in_stages(model, x, y, STAGES, checkpoint=tmp_path / "a", acceleration=None)
    # a pass to count classes, and the three that tell which images are right: batches of 16, as at first
    assert len(calls) == 4
    assert torch.equal(first.x_adv, again.x_adv) and torch.equal(first.stage, again.stage)
    assert first.seconds == again.seconds


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m, x, y, s: (network(1)[0], x, y, s), "network"),
        (lambda m, x, y, s: (m, x * 0.9, y, s), "images"),
        (lambda m, x, y, s: (m, x, y.flip(0), s), "labels"),
        (lambda m, x, y, s: (m, x, y, {"pgd": STAGES["pgd"].scaled(2)}), "attacks"),
    ],
)
def test_progress_of_another_evaluation_is_refused(tmp_path, change, what):
    model, x, y = network()
    attack_in_stages(model, x, y, {"pgd": STAGES["pgd"]}, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=rf"holds the progress of another evaluation: its {what} differ"):
        model, x, y, stages = change(model, x, y, {"pgd": STAGES["pgd"]})
        attack_in_stages(model, x, y, stages, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"its seed differ"):
        model, x, y = network()
        attack_in_stages(model, x, y, {"pgd": STAGES["pgd"]}, checkpoint=tmp_path, seed=5)


def test_a_checkpoint_that_is_a_file_is_refused(tmp_path):
    model, x, y = network()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"checkpoint must be a folder"):
        attack_in_stages(model, x, y, STAGES, checkpoint=tmp_path / "file")


def slow_network():
    model, x, y = network()
    return nn.Sequential(Wait(), *model).eval(), x, y


class Wait(nn.Module):
    def forward(self, x):
        time.sleep(0.002)
        return x


def summary(outcome):
    return json.dumps({"stage": outcome.stage.tolist(), "sum": outcome.x_adv.double().sum().item().hex()})


def run_to_the_end(folder, target):
    torch.set_num_threads(1)
    model, x, y = slow_network()
    outcome = attack_in_stages(model, x, y, STAGES, batch_size=4, checkpoint=folder, seed=1)
    target.write_text(summary(outcome))


def saved_batches(folder):
    return len(list((folder / "progress").rglob("*.pt")))


def test_an_evaluation_killed_ten_times_ends_with_the_same_result(tmp_path):
    torch.set_num_threads(1)
    model, x, y = slow_network()
    expected = summary(attack_in_stages(model, x, y, STAGES, batch_size=4, checkpoint=None, seed=1))
    generator = torch.Generator().manual_seed(0)
    alive = 0
    for kills in range(10):
        child = FORK.Process(target=run_to_the_end, args=(tmp_path / "progress", tmp_path / "killed.json"))
        child.start()
        # at a random point of the batch after the next one that is saved
        while child.is_alive() and saved_batches(tmp_path) <= kills:
            time.sleep(0.001)
        time.sleep(0.01 * torch.rand(1, generator=generator).item())
        alive += child.is_alive()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    run_to_the_end(tmp_path / "progress", tmp_path / "end.json")
    assert (tmp_path / "end.json").read_text() == expected
    # a machine that pauses this process may let a child reach the end
    assert alive >= 5


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model, x, y = network()
    calls = []
    stages = {**STAGES, "recording": Recording(calls=calls, bound=0.0)}
    outcome = attack_in_stages(model, x, y, stages, batch_size=8, seed=1, ranks=ProcessGroup())
    images = sum(len(pixels) for _, pixels, _ in calls)
    (folder / f"{rank}.json").write_text(json.dumps([summary(outcome), images]))
    torch.distributed.destroy_process_group()


def test_two_processes_share_the_survivors_and_agree_with_one(tmp_path):
    torch.set_num_threads(1)
    children = [FORK.Process(target=one_of_two, args=(rank, tmp_path)) for rank in range(2)]
    for child in children:
        child.start()
    model, x, y = network()
    stages = {**STAGES, "recording": Recording(calls=[], bound=0.0)}
    alone = attack_in_stages(model, x, y, stages, batch_size=8, seed=1)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    (first, some), (second, others) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second == summary(alone)
    # each image that was left is attacked by one process, and the work is even up to a batch
    left = alone.standing_after("square")
    assert some + others == left and abs(some - others) <= 8 and left > 8


def peak_of_two_attacks(report):
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)).eval()
    x = torch.rand(4000, 3, 32, 32)
    y = torch.cat([model(images).argmax(1).detach() for images in x.split(500)])
    stages = {"apgd": APGD(eps=0.3 / 255, steps=3), "square": Square(eps=0.3 / 255, queries=5)}
    attack_in_stages(model, x[:64], y[:64], stages, batch_size=32)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmHWM")
    outcome = attack_in_stages(model, x, y, stages, batch_size=32)
    report.write_text(json.dumps({"peak": resident("VmHWM") - before, "fallen": int((~outcome.robust).sum())}))


def resident(field):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{field}:")[1].split()[0])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux's /proc")
def test_memory_is_that_of_the_result_and_a_few_batches(tmp_path):
    child = FORK.Process(target=peak_of_two_attacks, args=(tmp_path / "report.json",))
    child.start()
    child.join()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["fallen"] > 100
    result, batch = 4 * 4000 * 3 * 32 * 32, 4 * 32 * 3 * 32 * 32
    assert report["peak"] < result + 60 * batch
