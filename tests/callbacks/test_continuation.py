import shlex
import signal

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_advreg.callbacks import Continuation, ExactResume
from lightning_advreg.callbacks.continuation import FILE

from .test_finite_training import Net, batches, loader


class Break(Callback):
    def __init__(self, error, epoch=1):
        self.error, self.epoch = error, epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 2:
            raise self.error


def fit(folder, *callbacks, checkpoints=True):
    if checkpoints:
        callbacks = (*callbacks, ModelCheckpoint(folder / "checkpoints", save_last=True))
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=checkpoints,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(), loader(batches(4)))


COMMAND = [
    "fit",
    "--config",
    "my run.yaml",
    "--ckpt_path",
    "old.ckpt",
    "--trainer.max_epochs=2",
    "--ckpt_path=older.ckpt",
]


def test_ctrl_c_says_how_to_continue(tmp_path):
    with pytest.raises(SystemExit):
        fit(tmp_path, Continuation(COMMAND), Break(KeyboardInterrupt()))
    lines = (tmp_path / FILE).read_text().splitlines()
    assert lines[0] == "Training was ended in epoch 1, at step 6, by Ctrl-C"
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert "The last checkpoint is" in lines[1]
    arguments = shlex.split(lines[2])
    assert arguments[:-1] == [
        *("lightning-advreg", "fit", "--config", "my run.yaml", "--trainer.max_epochs=2", "--ckpt_path"),
    ]
    assert arguments[-1] == str(last)
    # a run that ends well leaves none behind
    fit(tmp_path, Continuation(COMMAND))
    assert not (tmp_path / FILE).exists()


def test_without_a_checkpoint_it_begins_anew_and_memory_has_a_remedy(tmp_path):
    with pytest.raises(torch.OutOfMemoryError):
        fit(
            tmp_path,
            Continuation(COMMAND),
            Break(torch.OutOfMemoryError("CUDA out of memory.\nTried"), 0),
            checkpoints=False,
        )
    text = (tmp_path / FILE).read_text()
    assert text.startswith("Training was ended in epoch 0, at step 2, by OutOfMemoryError: CUDA out of memory.\n")
    assert "halve data.init_args.batch_size and double trainer.accumulate_grad_batches" in text
    assert "There is no checkpoint yet. To begin anew:" in text and "--ckpt_path" not in text


def test_a_folder_that_is_gone_hides_no_error(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(KeyError):
        fit(tmp_path, Continuation(COMMAND), Break(KeyError("boom"), 0), checkpoints=False)


def test_a_signal_is_named_and_the_file_of_exact_resume_is_continued_from(tmp_path):
    class Terminate(Break):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == self.epoch and batch_idx == 2:
                signal.raise_signal(signal.SIGTERM)

    exact = ExactResume(every_n_minutes=None)
    with pytest.raises(SystemExit):
        fit(tmp_path, Continuation(["fit", "--config", "mine"]), exact, Terminate(None), checkpoints=False)
    lines = (tmp_path / FILE).read_text().splitlines()
    assert lines[0] == "Training was ended in epoch 1, at step 7, by SIGTERM"
    assert lines[2] == f"  lightning-advreg fit --config mine --ckpt_path {tmp_path / 'resume.ckpt'}"


def test_a_run_that_was_itself_resumed_is_so_again():
    command = ["fit", "--resume", "runs/mine"]
    assert Continuation(command).next_command(None) == "lightning-advreg fit --resume runs/mine"
