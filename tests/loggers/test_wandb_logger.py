"""Which run of W&B a logger begins or continues, with a stand-in for `wandb.init`."""

import json
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
from lightning.pytorch.loggers import WandbLogger

from lightning_advreg.loggers import ResumableWandbLogger, wandb_logger
from lightning_advreg.loggers.wandb_note import FILE, WandbNote, read_note, write_note

wandb = pytest.importorskip("wandb")
KNOWN = WandbNote(id="first", project="robust", entity="team", offline=False)


class Begun:
    """What `wandb.init` gives."""

    disabled, name = False, "of the server"

    def __init__(self, given, folder):
        self.given = given
        self.id = given["id"] or os.environ["WANDB_RUN_ID"]
        self.project, self.entity = given["project"], given.get("entity")
        self.offline = given.get("mode") == "offline"
        self.dir = str(folder / "wandb" / f"offline-run-0-{self.id}" / "files")
        self.config, self.ended = SimpleNamespace(sent={}), None
        self.config.update = lambda values, **_: self.config.sent.update(values)

    def finish(self, exit_code):
        self.ended = exit_code


@pytest.fixture
def began(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_") and name != "WANDB_SERVICE"]:
        monkeypatch.delenv(name)
    begun = []
    monkeypatch.setattr(wandb, "init", lambda **given: begun.append(Begun(given, tmp_path)) or begun[-1])
    monkeypatch.setattr(wandb_logger, "reason_to_stay_offline", lambda settings: None)
    return begun


def logger_in(folder, **settings):
    return ResumableWandbLogger(**{"save_dir": folder, "project": "robust", **settings})


def begin(folder, **settings):
    return logger_in(folder, **settings).experiment


def test_a_new_run_has_a_new_id_which_the_folder_keeps(began, tmp_path):
    first, second = begin(tmp_path), begin(tmp_path)
    assert first.id != second.id and len(first.id) == 8
    assert read_note(tmp_path) == WandbNote(id=second.id, project="robust", entity=None, offline=False)
    assert [run.given["resume"] for run in began] == ["allow", "allow"]
    assert all("mode" not in run.given and "entity" not in run.given for run in began)


@pytest.mark.parametrize("resume", ["allow", "must"])
def test_the_run_of_the_folder_is_continued(resume, began, tmp_path):
    write_note(tmp_path, KNOWN)
    run = begin(tmp_path, resume=resume)
    assert (run.id, run.given["resume"], run.given["entity"]) == ("first", resume, "team")
    assert read_note(tmp_path) == KNOWN


def test_a_run_that_was_begun_offline_need_not_be_known_to_the_server(began, tmp_path):
    write_note(tmp_path, WandbNote(id="first", project="robust", entity=None, offline=True))
    run = begin(tmp_path, resume="must")
    assert (run.id, run.given["resume"]) == ("first", "allow")
    # now it is
    assert read_note(tmp_path).offline is False


def test_offline_in_between_it_stays_known(began, tmp_path):
    write_note(tmp_path, KNOWN)
    run = begin(tmp_path, resume="must", offline=True)
    assert (run.given["mode"], run.given["resume"]) == ("offline", "allow")
    assert read_note(tmp_path) == KNOWN


def test_a_run_of_another_project_is_not_continued(began, tmp_path):
    write_note(tmp_path, KNOWN)
    assert begin(tmp_path, resume="allow", project="other").id != "first"
    write_note(tmp_path, KNOWN)
    message = rf"resume='must', but {tmp_path / FILE} names no W&B run of the project other; give id=, or resume='allow"
    with pytest.raises(ValueError, match=message):
        _ = logger_in(tmp_path, resume="must", project="other").experiment


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 3}', '{"id": ""}'])
def test_a_note_that_cannot_be_read_is_none(content, began, tmp_path):
    (tmp_path / FILE).write_text(content)
    assert begin(tmp_path, resume="allow").id != "first"
    assert read_note(tmp_path) is not None


def test_an_id_that_was_given_and_that_of_the_environment(began, tmp_path, monkeypatch):
    write_note(tmp_path, KNOWN)
    assert begin(tmp_path, resume="allow", id="mine").id == "mine"
    monkeypatch.setenv("WANDB_RUN_ID", "sweep")
    assert begin(tmp_path, resume="never").id == "sweep"
    assert read_note(tmp_path).id == "sweep"


def test_words_that_mean_nothing():
    with pytest.raises(ValueError, match=r"resume must be 'never', 'allow', 'must' or None, got 'auto'\."):
        ResumableWandbLogger(resume="auto")


@pytest.mark.parametrize(
    ("offline", "mode", "reason", "expected"),
    [
        (None, None, None, False),
        (None, None, "there is no API key", True),
        (True, None, None, True),
        (False, None, "there is no API key", False),
        # WANDB_MODE beats what the configuration says
        (True, "online", None, False),
        (False, "offline", "WANDB_MODE is offline", True),
    ],
)
def test_offline_and_the_checkpoints_with_it(offline, mode, reason, expected, began, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(wandb_logger, "rank_zero_info", said.append)
    monkeypatch.setattr(wandb_logger, "reason_to_stay_offline", lambda settings: reason)
    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    logger = logger_in(tmp_path, offline=offline, log_model=True)
    assert (logger.experiment.given.get("mode") == "offline") is expected
    assert len(said) == expected
    assert os.environ.get("WANDB_MODE") == mode
    # what a ModelCheckpoint tells is remembered for the end of training, or not
    logger.after_save_checkpoint(SimpleNamespace(save_top_k=1))
    assert len(logger._checkpoint_callbacks) == (not expected)


def test_the_command_line_tells_where_the_run_lies(began, tmp_path):
    folder = tmp_path / "runs" / "mine"
    write_note(folder, KNOWN)
    logger = ResumableWandbLogger(project="robust")
    logger.attach(folder, resume="allow", step=60)
    run = logger.experiment
    assert (run.id, run.given["dir"], run.given["name"], logger.save_dir) == ("first", str(folder), "mine", str(folder))
    # what the user has said stays
    logger = logger_in(tmp_path, resume="never", name="own")
    logger.attach(folder, resume="allow")
    run = logger.experiment
    assert run.id != "first" and (run.given["dir"], run.given["name"]) == (str(tmp_path), "own")
    assert json.loads((folder / FILE).read_text())["id"] == run.id


def test_a_closed_run_is_continued_and_a_foreign_one_not_closed(began, tmp_path, monkeypatch):
    logger = logger_in(tmp_path)
    logger.close()
    run = logger.experiment
    logger.close(failed=True)
    assert run.ended == 1 and logger.version == run.id
    again = logger.experiment
    assert again.id == run.id and len(began) == 2
    foreign = Begun({"id": "theirs", "project": "p"}, tmp_path)
    monkeypatch.setattr(wandb, "run", foreign)
    logger = logger_in(tmp_path)
    with pytest.warns(UserWarning, match="already in progress"):
        assert logger.experiment is foreign
    logger.close()
    assert foreign.ended is None


def test_hyper_parameters_tell_no_paths(began, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logger = logger_in(tmp_path)
    logger.log_hyperparams({"root": str(tmp_path / "runs"), "eps": 0.1})
    assert logger.experiment.config.sent == {"root": "runs", "eps": 0.1}


def test_a_process_that_was_spawned_finds_the_run_of_its_parent(began, tmp_path):
    logger = logger_in(tmp_path)
    logger.experiment._attach_id = "attached"
    attached = []
    again = pickle.loads(pickle.dumps(logger))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb, "_attach", attached.append, raising=False)
        _ = again.experiment
    assert attached == ["attached"] and len(began) == 1


def test_it_is_lightnings_logger_and_imports_no_wandb():
    assert issubclass(ResumableWandbLogger, WandbLogger)
    script = (
        "import sys, lightning_advreg, lightning_advreg.loggers as room\n"
        "import lightning_advreg.callbacks\n"
        "room.ResumableWandbLogger(save_dir='runs')\n"
        "print('wandb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
