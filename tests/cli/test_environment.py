import json

from .runs import root, run


def starts(*parts):
    return json.loads(root("digits_regularized").joinpath(*parts, "environment.json").read_text())["starts"]


def test_fit_and_test_leave_where_and_with_what_they_ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("fit", "digits_regularized", "--seed_everything", "5")
    (start,) = starts()
    assert start["command"][:3] == ["fit", "--config", str(start["command"][2])]
    assert start["seed"] == 5 and start["devices"] == "1 x cpu" and start["ended"]
    last = str(root("digits_regularized") / "checkpoints/last.ckpt")
    run("test", "digits_regularized", "--ckpt_path", last)
    assert starts("test")[0]["command"][0] == "test" and len(starts()) == 1
    run("fit", "digits_regularized", "--ckpt_path", last, "--trainer.max_epochs", "2")
    assert [start["checkpoint"] for start in starts()] == [None, last]
    run("fit", "digits_regularized", "--trainer.fast_dev_run", "true")
    assert len(starts()) == 2
