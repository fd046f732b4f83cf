import os
import re
import subprocess
import sys

import pytest

from lightning_advreg.run_folder import LOCK, check_writable, held


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match=r"nothing can be written into .*runs \(Not a directory\); set trainer"):
        check_writable(tmp_path / "file" / "runs")
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"nothing can be written into .*\(Permission denied\)"):
        check_writable(tmp_path)


def test_one_run_at_a_time(tmp_path):
    with held(tmp_path):
        message = rf"{re.escape(str(tmp_path))} is in use by process {os.getpid()} on .*default_root_dir"
        with pytest.raises(RuntimeError, match=message), held(tmp_path):
            pass
        # the one that was refused has not taken the lock away
        with pytest.raises(RuntimeError, match="is in use"), held(tmp_path):
            pass
    assert not (tmp_path / LOCK).exists()
    with pytest.raises(KeyError), held(tmp_path):
        raise KeyError
    with held(tmp_path):
        pass


def test_a_lock_falls_with_its_process(tmp_path):
    code = (
        f"import fcntl, os; f = open({str(tmp_path / LOCK)!r}, 'a+'); fcntl.flock(f, 2); print(1, flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        with pytest.raises(RuntimeError, match=r"in use by another process"), held(tmp_path):
            pass
    finally:
        process.kill()
        process.wait()
    # its file is still there, and nobody holds it
    assert (tmp_path / LOCK).exists()
    with held(tmp_path):
        pass
