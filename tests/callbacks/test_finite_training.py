import math
import warnings

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn

from lightning_advreg.callbacks import FiniteTraining
from lightning_advreg.callbacks.finite_training import FirstBadBatch, finite_weights

from ..modules.parts import digits, plain_gan, trainer


class Net(LightningModule):
    """A layer whose loss is NaN where an image is."""

    def __init__(self, manual=False):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("best", torch.tensor(math.inf))
        self.automatic_optimization = not manual

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])
        if self.automatic_optimization:
            return loss
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log("d_loss", loss)
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(count=12, bad=None, size=3):
    generator = torch.Generator().manual_seed(0)
    found = [(torch.rand(size, 1, 2, 2, generator=generator), torch.arange(size) % 2) for _ in range(count)]
    if bad is not None:
        found[bad][0][0, 0, 0, 0] = float("nan")
    return found


def loader(found):
    return torch.utils.data.DataLoader(found, batch_size=None)


def run(folder, found, *callbacks, module=None, epochs=2):
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
    )
    module = Net() if module is None else module
    try:
        trainer.fit(module, loader(found))
    finally:
        module.ended = trainer.current_epoch
    return module


@pytest.mark.parametrize("manual", [False, True])
def test_the_bad_batch_is_kept_and_the_last_good_checkpoint_stays(tmp_path, manual):
    class Poison(Callback):
        """A second epoch with a bad batch."""

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 5:
                batch[0][1, 0, 1, 0] = float("nan")

    found = batches()
    saved = ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    message = r"epoch 1, step 20: weights are not finite.*batch 5 of epoch 1 .*last good checkpoint is .*ckpt.*rollback"
    with warnings.catch_warnings(record=True), pytest.raises(FloatingPointError, match=message):
        run(tmp_path, found, Poison(), saved, FiniteTraining(every_n_batches=8), module=Net(manual))
    kept = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    assert kept["batch_idx"] == 5 and kept["epoch"] == 1
    assert kept["tensors"][0].isnan().nonzero().tolist() == [[1, 0, 1, 0]]
    assert kept["tensors"][1].equal(found[5][1]) and kept["tensors"][0].nan_to_num(-1).equal(found[5][0].nan_to_num(-1))
    weights = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert weights["epoch"] == 0 and all(w.isfinite().all() for k, w in weights["state_dict"].items() if k != "best")


def test_no_checkpoint_is_written_in_between(tmp_path):
    saved = ModelCheckpoint(tmp_path, every_n_train_steps=3, save_last=True, save_top_k=-1)
    with warnings.catch_warnings(record=True), pytest.raises(FloatingPointError, match=r"step 6: .*batch 4 of epoch 0"):
        run(tmp_path, batches(bad=4), saved, FiniteTraining())
    # before the first look: writing is what finds it
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


def test_the_end_of_an_epoch_comes_before_a_checkpoint_of_weights_alone(tmp_path):
    saved = ModelCheckpoint(tmp_path, save_weights_only=True)
    with warnings.catch_warnings(record=True), pytest.raises(FloatingPointError, match="No checkpoint was written yet"):
        run(tmp_path, batches(bad=11), saved, FiniteTraining())
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_training_whose_weights_stay_finite_goes_on(tmp_path):
    class Skip(Net):
        """What a gradient scaler does."""

        def on_before_optimizer_step(self, optimizer):
            if not all(p.grad.isfinite().all() for p in self.parameters()):
                optimizer.zero_grad()

    with pytest.warns(
        UserWarning, match=r"the loss of batch 2 of epoch 0 was not finite. The batch is in .*weights_only"
    ):
        module = run(tmp_path, batches(bad=2), FiniteTraining(), module=Skip())
    assert module.ended == 2 and finite_weights(module)


def test_a_good_training_is_the_same_with_and_without(tmp_path):
    torch.manual_seed(0)
    one = Net()
    two = Net()
    two.load_state_dict(one.state_dict())
    run(tmp_path, batches(), module=one)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*(workers|batches|GPU|log_every).*")
        run(tmp_path, batches(), FiniteTraining(every_n_batches=1), module=two)
    assert one.layer.weight.equal(two.layer.weight) and not (tmp_path / "bad_batch.pt").exists()


def test_a_monitor_that_ends_the_training_has_the_last_word(tmp_path):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = True

    with warnings.catch_warnings(record=True):
        module = run(tmp_path, batches(bad=0), Stop(), FiniteTraining(every_n_batches=1))
    assert module.ended == 1


def test_one_batch_is_kept_for_each_shape_and_the_host_never_waits():
    first = FirstBadBatch()
    for index in range(40):
        loss = torch.tensor(float("nan") if index == 30 else 1.0)
        first.add(loss, {"x": torch.full((1 + index % 9,), index), "name": "no tensor"}, index)
        assert len(first._kept) <= 4
    index, tensors = first.take()
    assert index == 30 and tensors[0].tolist() == [30] * 4
    meta = FirstBadBatch()
    # a meta tensor has no value that could be read
    for index in range(3):
        meta.add(torch.zeros((), device="meta"), [torch.zeros(2, device="meta")], index)


def test_running_statistics_count_and_other_buffers_do_not():
    module = Net()
    assert finite_weights(module) and finite_weights(nn.Identity())
    with torch.no_grad():
        module.layer.bias[0] = float("inf")
    assert not finite_weights(module)


def test_arguments():
    with pytest.raises(ValueError, match="every_n_batches"):
        FiniteTraining(every_n_batches=0)


def test_a_gan_is_watched_by_the_losses_that_its_steps_give(monkeypatch):
    """What is logged for a progress bar would be turned into numbers, for which the host has to wait."""
    asked = []
    logged = Trainer.callback_metrics.fget
    monkeypatch.setattr(Trainer, "callback_metrics", property(lambda self: asked.append(1) or logged(self)))
    callback = FiniteTraining()
    seen = []
    monkeypatch.setattr(FirstBadBatch, "add", lambda self, loss, batch, index: seen.append(len(loss)))
    fitting = trainer(callbacks=[callback], limit_train_batches=3, limit_val_batches=0)
    counts = []

    class Count(Callback):
        def on_train_batch_end(self, *_):
            counts.append(len(asked))

    fitting.callbacks.append(Count())
    fitting.fit(plain_gan(), datamodule=digits())
    assert seen == [2, 2, 2]
    assert counts == [0, 0, 0]
