import os
import time

import numpy as np
import pytest

from lightning_advreg.files import write_bytes, write_json, write_text, writing
from lightning_advreg.files.atomic import clear_drafts


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "results.json"
    write_json(path, {"acc": 0.5})
    write_json(path, {"acc": 0.75})
    assert path.read_text() == '{\n  "acc": 0.75\n}\n'
    assert names(path.parent) == ["results.json"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail():
        with writing(path) as draft:
            draft.write_text("half")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_content_reaches_the_disk_before_the_name_does(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("fsync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths)))
    write_bytes(tmp_path / "a.bin", b"1")
    assert order[:2] == ["fsync", "replace"]


def test_the_draft_lies_beside_the_file_and_ends_like_it(tmp_path):
    with writing(tmp_path / "a.npz") as draft:
        # numpy adds the ending to names that lack it
        np.savez(draft, x=np.zeros(2))
        assert draft.parent == tmp_path and not list(tmp_path.glob("[!.]*"))
    assert names(tmp_path) == ["a.npz"]


def test_a_link_and_permissions_outlive_the_file(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "a.txt", tmp_path / "a.txt"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_writers_of_one_file_do_not_share_a_draft(tmp_path):
    with writing(tmp_path / "a") as first, writing(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"


def test_drafts_of_killed_processes_are_cleared_once_they_are_old(tmp_path):
    old, fresh = tmp_path / ".last.0123.draft.ckpt", tmp_path / ".last.4567.draft.ckpt"
    for path in (old, fresh, tmp_path / "last.ckpt"):
        path.write_text("x")
        os.utime(path, (time.time() - 7200,) * 2)
    os.utime(fresh)
    clear_drafts(tmp_path)
    clear_drafts(tmp_path / "nowhere")
    assert names(tmp_path) == [fresh.name, "last.ckpt"]
