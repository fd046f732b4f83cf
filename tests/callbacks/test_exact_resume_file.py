"""The file that ExactResume writes, the signals it answers, and what it says."""

import errno
import logging
import os
import signal
from functools import partial

import pytest
import torch

from lightning_advreg.callbacks import ExactResume
from lightning_advreg.callbacks.resume_file import checkpoint_to_continue

from ..modules.parts import AtBatches
from ..modules.test_resume import assert_same
from .test_exact_resume import EPOCHS, Chance, Cut, CutOff, assert_same_end, fit, foreign_data

CHECKPOINT = {"state_dict": {}, "pytorch-lightning_version": "2.6.0", "loops": {}, "global_step": 3}


def stopped(folder, number, *, at=4, callbacks=(), **settings):
    """A run that gets a signal in its batch ``at``."""
    send = AtBatches(lambda trainer, *args: trainer.fit_loop.total_batch_idx == at - 1 and signal.raise_signal(number))
    resume = ExactResume(every_n_minutes=None)
    return fit(Chance, folder, foreign_data, callbacks=[send, *callbacks], resume=resume, **settings)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(number, tmp_path, caplog):
    logging.getLogger("lightning.pytorch").propagate = True
    whole = fit(Chance, tmp_path / "whole", foreign_data)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        stopped(tmp_path, number)
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) == before
    path = tmp_path / "resume.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == 4
    said = [record.getMessage() for record in caplog.records]
    told = f"Stopped by {number.name} in epoch 0, after step 4. Continue with: trainer.fit(..., ckpt_path='{path}')"
    assert told in said
    assert_same_end(whole, fit(Chance, tmp_path, foreign_data, seed=99, ckpt_path=path))


def test_a_signal_waits_for_the_gradients_that_are_added_up(tmp_path):
    with pytest.raises(SystemExit):
        stopped(tmp_path, signal.SIGTERM, at=2, accumulate_grad_batches=3)
    stored = torch.load(tmp_path / "resume.ckpt", weights_only=True)
    assert stored["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == 3


def test_a_handler_of_sigusr1_that_was_there_is_called_between_two_steps_and_training_goes_on(tmp_path):
    calls = []

    def queue_again(number, frame):
        calls.append((number, (tmp_path / "resume.ckpt").is_file()))

    former = signal.signal(signal.SIGUSR1, queue_again)
    try:
        _, fitted = stopped(tmp_path, signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert calls == [(signal.SIGUSR1, True)]
    assert fitted.current_epoch == EPOCHS


def test_signals_are_left_alone_on_request(tmp_path):
    seen = []
    look = AtBatches(lambda *args: seen.append(signal.getsignal(signal.SIGUSR1)))
    fit(Chance, tmp_path, foreign_data, callbacks=[look], resume=ExactResume(save_on_signal=False), max_epochs=1)
    assert set(seen) == {signal.SIG_DFL}


def test_a_finished_run_says_so_and_trains_on_when_it_is_made_longer(tmp_path, caplog):
    logging.getLogger("lightning.pytorch").propagate = True
    whole = fit(Chance, tmp_path / "whole", foreign_data, max_epochs=4)
    path = tmp_path / "part" / "resume.ckpt"
    resume = partial(ExactResume, every_n_minutes=None)
    first, _ = fit(Chance, path.parent, foreign_data, resume=resume())
    again, _ = fit(Chance, path.parent, foreign_data, resume=resume(), ckpt_path=path, seed=99)
    assert_same(dict(first.state_dict()), dict(again.state_dict()))
    assert "This run is finished, after epoch 3 and step 18; raise max_epochs" in caplog.text
    longer = fit(Chance, path.parent, foreign_data, resume=resume(), ckpt_path=path, seed=99, max_epochs=4)
    assert_same_end(whole, longer)


def test_a_disk_that_is_full_costs_a_warning_and_never_the_former_file(tmp_path, monkeypatch):
    whole = fit(Chance, tmp_path / "whole", foreign_data)
    written, save = [], torch.save

    def runs_out_of_space(checkpoint, file, *args, **kwargs):
        written.append(None)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(checkpoint, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", runs_out_of_space)
    with pytest.warns(UserWarning, match=r"could not write .*resume\.ckpt \(No space left.*goes on; the file of an"):
        module, fitted = fit(Chance, tmp_path / "part", foreign_data)
    monkeypatch.undo()
    assert_same_end(whole, (module, fitted))
    assert [each.name for each in (tmp_path / "part").iterdir()] == ["resume.ckpt"]
    stored = torch.load(tmp_path / "part" / "resume.ckpt", weights_only=True)
    assert stored["global_step"] == 2
    rest = fit(Chance, tmp_path / "rest", foreign_data, seed=99, ckpt_path=tmp_path / "part" / "resume.ckpt")
    assert_same_end(whole, rest)


def test_a_folder_that_cannot_be_made_costs_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"ExactResume could not write"):
        fit(Chance, tmp_path, foreign_data, resume=ExactResume(1, dirpath=tmp_path / "file"), max_epochs=1)


def test_what_is_kept_is_plain_and_small(tmp_path):
    with pytest.raises(CutOff):
        fit(Chance, tmp_path, foreign_data, callbacks=[Cut(3)])
    kept = torch.load(tmp_path / "resume.ckpt", weights_only=True)["exact_resume"]
    torch.save(kept, tmp_path / "kept.pt")
    assert kept["place"] == "step"
    assert 10_000 < (tmp_path / "kept.pt").stat().st_size < 50_000


def test_a_new_run_keeps_the_file_of_an_earlier_one(tmp_path):
    for _ in range(2):
        fit(Chance, tmp_path, foreign_data, max_epochs=1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["resume.ckpt", "resume_1.ckpt"]


def test_saves_by_time(tmp_path, monkeypatch):
    saves = []
    monkeypatch.setattr(ExactResume, "_save", lambda self, trainer, place: saves.append(trainer.global_step))
    fit(Chance, tmp_path, foreign_data, resume=ExactResume(every_n_minutes=1e-9), max_epochs=1)
    # the last one is that of the end
    assert saves == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every_n_train_steps": 0}, r"every_n_train_steps must be an integer of at least 1, got 0"),
        ({"every_n_minutes": 0}, r"every_n_minutes must be more than 0, got 0; None saves by steps alone"),
    ],
)
def test_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        ExactResume(**settings)


def test_a_folder_elsewhere_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"needs a folder of this machine.*got s3://bucket; give ExactResume\(dirpath"):
        fit(Chance, tmp_path, foreign_data, resume=ExactResume(dirpath="s3://bucket"))


@pytest.mark.parametrize("cut_off", [True, False])
def test_a_file_that_was_cut_off_is_passed_over(cut_off, tmp_path):
    path = tmp_path / "resume.ckpt"
    (tmp_path / "checkpoints").mkdir()
    torch.save(CHECKPOINT, path)
    torch.save(CHECKPOINT, tmp_path / "checkpoints" / "last.ckpt")
    if cut_off:
        path.write_bytes(path.read_bytes()[:200])
    found, _ = checkpoint_to_continue(tmp_path)
    assert found.name == ("last.ckpt" if cut_off else "resume.ckpt")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"place": "nowhere"}, r"what ExactResume kept in this checkpoint is damaged: it holds \['epoch_start', 'fin"),
        ({"metrics": {"val/loss": 3}}, r"what ExactResume kept in this checkpoint is damaged"),
        ({"generators": 3}, r"what ExactResume kept in this checkpoint is damaged"),
        ({"generators": [{"torch": torch.zeros(3)}]}, r"the stored state of the random generators is damaged \(Type"),
    ],
)
def test_a_damaged_state_has_one_clear_error(damage, message, tmp_path):
    fit(Chance, tmp_path, foreign_data, max_epochs=1)
    path = tmp_path / "resume.ckpt"
    stored = torch.load(path, weights_only=True)
    stored["exact_resume"] |= damage
    torch.save(stored, path)
    with pytest.raises(ValueError, match=message):
        fit(Chance, tmp_path, foreign_data, ckpt_path=path)
