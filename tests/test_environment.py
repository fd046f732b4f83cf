import json

import pytest
import torch

from lightning_advreg.environment import record_end, record_start


def record(folder, **more):
    settings = {"command": ["fit"], "device": torch.device("cpu"), "processes": 2, "seed": 7, **more}
    record_start(folder, **settings)


def starts(folder):
    return json.loads((folder / "environment.json").read_text())["starts"]


def test_a_start_names_machine_versions_and_command(tmp_path):
    record(tmp_path / "new")
    (start,) = starts(tmp_path / "new")
    assert start["devices"] == "2 x cpu" and start["seed"] == 7 and start["command"] == ["fit"]
    assert start["threads"] == torch.get_num_threads() and start["processor"]
    assert start["versions"]["torch"] == torch.__version__.partition("+")[0] or start["versions"]["torch"]
    assert "ended" not in start


def test_continuing_adds_a_start_and_a_new_run_forgets_the_old_ones(tmp_path):
    record(tmp_path)
    record(tmp_path, checkpoint="last.ckpt")
    record_end(tmp_path)
    first, second = starts(tmp_path)
    assert "ended" not in first and second["ended"] >= second["started"] and second["checkpoint"] == "last.ckpt"
    record(tmp_path)
    assert len(starts(tmp_path)) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"starts": 3}'])
def test_a_broken_record_stops_no_training(tmp_path, content):
    (tmp_path / "environment.json").write_text(content)
    record_end(tmp_path)
    record(tmp_path, checkpoint="last.ckpt")
    assert len(starts(tmp_path)) == 1
