"""What is sent says nothing of the machine it comes from."""

from pathlib import Path, PurePosixPath

import pytest

from lightning_advreg.loggers import without_paths
from lightning_advreg.loggers.portable import relative_path


@pytest.fixture(autouse=True)
def at_work(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ann"))
    monkeypatch.setattr(Path, "cwd", lambda: Path("/home/ann/work"))


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/home/ann/work/runs/mine", "runs/mine"),
        ("/home/ann/work", "."),
        ("/home/ann/data", "~/data"),
        # of another folder whose name begins alike
        ("/home/anna/data", ".../data"),
        ("/home/ann/work-2/data", "~/work-2/data"),
        ("/mnt/ann/images.npz", ".../images.npz"),
        (PurePosixPath("/home/ann/work/a.yaml"), "a.yaml"),
        ("C:\\Users\\ann\\images.npz", ".../images.npz"),
        ("{file: /home/ann/work/a.npz, other: '/home/ann/b'}", "{file: ./a.npz, other: '~/b'}"),
        # these are no paths of a machine
        ("8/255", "8/255"),
        ("runs/mine", "runs/mine"),
        ("../data", "../data"),
        ("val/robust_acc/pgd20", "val/robust_acc/pgd20"),
        ("/", "/"),
        ("torch.optim.Adam", "torch.optim.Adam"),
        (0.5, 0.5),
        (None, None),
        (True, True),
    ],
)
def test_paths_and_what_is_none(given, sent):
    assert without_paths(given) == sent and type(without_paths(given)) is type(sent)
    # once sent, it stays
    assert without_paths(sent) == sent


def test_in_the_depth_too():
    given = {"a": [{"/home/ann/work/key": ("/mnt/x/y", 3)}], "b": {}}
    assert without_paths(given) == {"a": [{"key": [".../y", 3]}], "b": {}}


def test_a_home_at_the_root_is_not_looked_for(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    monkeypatch.setattr(Path, "cwd", lambda: Path("/"))
    assert without_paths({"lr": "a/b", "dir": "/data/x"}) == {"lr": "a/b", "dir": ".../x"}


def test_relative_to_the_working_folder():
    assert relative_path("/home/ann/work/runs") == "runs"
    assert relative_path("/mnt/runs") == "/mnt/runs"
