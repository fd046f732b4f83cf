"""Runs in processes of their own, on this machine and on a Ray cluster."""

import os
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_advreg.ablation import Ablation, Axis, Local, Plan, Ray, local, make_runs, process
from lightning_advreg.ablation.cluster import connected
from lightning_advreg.ablation.launchers import Ended, Started
from lightning_advreg.ablation.process import RunProcess

from .parts import InProcess, write_base


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Let processes run a shell script in place of Python."""

    def use(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(process.sys, "executable", str(path))
        return tmp_path

    return use


def folders_in(folder, *names):
    for name in names:
        (folder / name).mkdir()
    return [folder / name for name in names]


def happened(events):
    return [event for event in events if event is not None]


def wait_for(file, events):
    while not file.is_file() or not file.read_text().strip():
        assert next(events) is None


def is_gone(pid):
    stat = Path("/proc", pid, "stat")
    # a zombie waits for whoever adopts it
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_local_runs_tell_what_happens(stand_in):
    folder = stand_in('echo "$OMP_NUM_THREADS threads: $3"; exit 3')
    assert happened(Local(threads=2).launch([folder])) == [Started(folder=folder), Ended(folder=folder, exit_code=3)]
    assert (folder / "log.txt").read_text() == f"2 threads: {folder}\n"


def test_runs_come_one_after_the_other_unless_asked_otherwise(stand_in):
    one, two = folders_in(stand_in("exit 0"), "one", "two")
    events = happened(Local().launch([one, two]))
    assert [(type(event), event.folder) for event in events] == [
        (Started, one), (Ended, one), (Started, two), (Ended, two),
    ]  # fmt: skip


def test_jobs_run_at_once_and_no_more_of_them(stand_in):
    # each waits for the other, and the third for nobody
    script = """
    touch $3/here; cd $(dirname $3)
    for i in $(seq 200); do [ -f one/here ] && [ -f two/here ] && exit 0; sleep 0.05; done; exit 1"""
    folders = folders_in(stand_in(script), "one", "two", "three")
    events = happened(Local(jobs=2).launch(folders))
    assert [type(event) for event in events[:3]] == [Started, Started, Ended]
    assert [event.folder for event in events if isinstance(event, Started)] == folders
    assert sorted((event.folder, event.exit_code) for event in events if isinstance(event, Ended)) == sorted(
        (folder, 0) for folder in folders
    )


def test_jobs_share_the_processors(monkeypatch):
    monkeypatch.setattr(local, "_processors", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    settings = [Local(), Local(jobs=3), Local(jobs=20), Local(jobs=3, threads=5)]
    assert [each.threads_of_a_run for each in settings] == [None, 2, 1, 5]
    # who sets it has decided
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert Local(jobs=3).threads_of_a_run is None


def test_closing_the_launcher_ends_the_runs_and_their_children(stand_in):
    folders = folders_in(stand_in("sleep 100 & echo $! > $3/child; wait"), "one", "two")
    events = Local(jobs=2).launch(folders)
    assert [next(events), next(events)] == [Started(folder=folder) for folder in folders]
    for folder in folders:
        wait_for(folder / "child", events)
    started = time.monotonic()
    events.close()
    assert time.monotonic() - started < 9
    children = [(folder / "child").read_text().strip() for folder in folders]
    # killed, but a busy machine takes its time
    while not all(map(is_gone, children)):
        assert time.monotonic() - started < 20
        time.sleep(0.05)


def test_a_run_can_be_waited_for(stand_in):
    with RunProcess(stand_in("sleep 100"), None, Path.cwd()) as running:
        assert running.wait(0.05) is None


def test_a_run_that_fails_leaves_its_error_and_ends_in_order(tmp_path):
    (folder,) = folders_in(tmp_path, "empty")
    # an abort of the interpreter would be -6
    assert happened(Local().launch([folder]))[-1] == Ended(folder=folder, exit_code=1)
    assert "run.yaml" in (folder / "error.json").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"jobs": 0}, r"jobs must be at least 1, got 0"), ({"threads": 0}, r"threads must be at least 1, got 0")],
)
def test_numbers_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        Local(**settings)


# Ray


@pytest.fixture(scope="module")
def cluster():
    """One cluster for all: it takes longer to start than the runs."""
    pytest.importorskip("ray")
    connection = connected()
    try:
        connection.__enter__()
    except TimeoutError as error:
        pytest.skip(str(error))
    yield
    connection.__exit__(None, None, None)


@pytest.fixture
def broken_ray(monkeypatch):
    """Put a Ray in place that cannot start, for the reason that is given."""

    def use(error):
        def init(**settings):
            raise error

        ray = SimpleNamespace(is_initialized=lambda: False, init=init, __spec__=ModuleSpec("ray", None))
        monkeypatch.setitem(sys.modules, "ray", ray)

    return use


def test_a_machine_too_slow_for_ray_is_told_what_to_do(broken_ray, tmp_path):
    broken_ray(Exception("The current node timed out during startup. This could happen because"))
    with pytest.raises(TimeoutError, match=r"^Ray did not start .* --launcher local --jobs 2") as caught:
        next(Ray().launch([tmp_path]))
    # the command catches these, and shows no traceback
    assert isinstance(caught.value, OSError) and "timed out" in str(caught.value.__cause__)


def test_other_errors_of_ray_are_its_own(broken_ray, tmp_path):
    broken_ray(ConnectionError("Could not find any running Ray instance."))
    with pytest.raises(ConnectionError, match=r"^Could not find any running Ray instance"):
        next(Ray(address="auto").launch([tmp_path]))


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the package ray; install lightning-advreg\[ray\]"):
        Ray()
    with pytest.raises(ValueError, match=r"gpus must be at least 0, got -1"):
        Ray(gpus=-1)


def test_runs_on_ray_equal_those_in_this_process(cluster, tmp_path, monkeypatch):
    # another number of threads rounds otherwise
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    plan = Plan(arguments=("--config", str(write_base(tmp_path))), axes=(Axis.parse("width=4,8"),))
    outcomes = {}
    try:
        for name, launcher in (("ray", Ray(threads=1)), ("here", InProcess())):
            out = tmp_path / name
            outcomes[name] = Ablation(plan=plan, runs=make_runs(plan, out), out=out, launcher=launcher).conduct()
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(outcomes["ray"], outcomes["here"], strict=True):
        assert (one.state, one.error) == ("finished", "")
        assert one.metrics == other.metrics
    assert (tmp_path / "ray" / "table.md").read_text() == (tmp_path / "here" / "table.md").read_text()


def test_a_run_that_fails_on_ray_is_shown(cluster, tmp_path):
    (folder,) = folders_in(tmp_path, "empty")
    assert happened(Ray().launch([folder])) == [Started(folder=folder), Ended(folder=folder, exit_code=1)]
    assert "run.yaml" in (folder / "error.json").read_text()
