"""The data modules inside Lightning's loops."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_advreg.data import CIFAR10DataModule, DigitsDataModule

from .sources import BUILDERS

both_loaders = pytest.mark.parametrize("loader", ["standard", "resident"])
quiet = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Recorder(LightningModule):
    """A linear classifier that remembers what it was trained and evaluated on."""

    def __init__(self, features=64, stop_after=None):
        super().__init__()
        self.layer = torch.nn.Linear(features, 10)
        self.seen, self.validated, self.tested = [], [], []
        self.stop_after = stop_after

    def training_step(self, batch, batch_idx):
        if self.stop_after is not None and len(self.seen) == self.stop_after:
            raise KeyboardInterrupt
        x, y = batch
        self.seen.append((self.current_epoch, x.clone(), y.clone()))
        return torch.nn.functional.cross_entropy(self.layer(x.flatten(1)), y)

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch[1])

    def test_step(self, batch, batch_idx):
        self.tested.append(batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def digits(**kwargs):
    return DigitsDataModule(**{"batch_size": 16, "train_size": 96, "val_size": 40, "augment": True, **kwargs})


def epoch_of(model, epoch):
    return torch.cat([x for e, x, _ in model.seen if e == epoch])


@both_loaders
def test_every_epoch_has_its_own_order(loader):
    model = Recorder()
    trainer = Trainer(max_epochs=2, enable_checkpointing=False, **quiet)
    trainer.fit(model, datamodule=digits(loader=loader))
    trainer.test(model, datamodule=digits(loader=loader), verbose=False)
    first, second = (torch.cat([y for e, _, y in model.seen if e == epoch]) for epoch in range(2))
    assert len(first) == 96 and not first.equal(second)
    assert first.sort().values.equal(second.sort().values)
    assert len(torch.cat(model.validated)) == 2 * 40
    assert len(torch.cat(model.tested)) == 360


@pytest.mark.parametrize("source", BUILDERS)
@both_loaders
def test_every_data_module_trains(tmp_path, monkeypatch, source, loader):
    data = BUILDERS[source](tmp_path, monkeypatch, batch_size=16, val_size=10, train_size=32, loader=loader)
    channels, height, width = data.image_shape
    model = Recorder(channels * height * width)
    model.layer = torch.nn.Linear(channels * height * width, data.num_classes)
    Trainer(max_epochs=1, enable_checkpointing=False, **quiet).fit(model, datamodule=data)
    assert sum(len(y) for _, _, y in model.seen) == 32 and len(torch.cat(model.validated)) == 10


@both_loaders
def test_no_validation_set_means_no_validation(loader):
    model = Recorder()
    data = digits(loader=loader, val_size=0)
    Trainer(max_epochs=1, enable_checkpointing=False, **quiet).fit(model, datamodule=data)
    assert model.seen and not model.validated


@pytest.mark.parametrize(
    ("loader", "num_workers"), [("standard", 0), ("resident", 0), pytest.param("standard", 1, id="workers")]
)
@pytest.mark.parametrize("step", [9, 12], ids=["mid-epoch", "end-of-epoch"])
def test_a_resumed_run_sees_what_an_unbroken_one_sees(tmp_path, loader, num_workers, step):
    def checkpointed(folder):
        return ModelCheckpoint(tmp_path / folder, every_n_train_steps=step, save_top_k=-1, filename="{step}")

    whole = Recorder()
    data = digits(loader=loader, num_workers=num_workers)
    Trainer(max_epochs=3, callbacks=[checkpointed("whole")], **quiet).fit(whole, datamodule=data)

    resumed = Recorder()
    Trainer(max_epochs=3, callbacks=[checkpointed("resumed")], **quiet).fit(
        resumed,
        datamodule=digits(loader=loader, num_workers=num_workers),
        ckpt_path=tmp_path / "whole" / f"step={step}.ckpt",
        weights_only=True,
    )
    assert len(whole.seen) == 18 and len(resumed.seen) == 18 - step
    for (epoch, x, y), (other_epoch, other_x, other_y) in zip(whole.seen[step:], resumed.seen, strict=True):
        assert epoch == other_epoch and y.equal(other_y) and x.equal(other_x)
    assert whole.layer.weight.equal(resumed.layer.weight)


@both_loaders
def test_overfit_batches_repeats_plain_batches(loader):
    model = Recorder()
    trainer = Trainer(max_epochs=2, overfit_batches=2, enable_checkpointing=False, **quiet)
    data = digits(loader=loader)
    trainer.fit(model, datamodule=data)
    assert len(model.seen) == 4 and epoch_of(model, 0).equal(epoch_of(model, 1))
    assert epoch_of(model, 0).equal(torch.stack([data.train_set[i][0] for i in range(32)]))


def test_hyper_parameters_are_primitives(tmp_path):
    data = DigitsDataModule(batch_size=16, val_size=0.2)
    model = Recorder()
    trainer = Trainer(max_epochs=1, limit_train_batches=1, default_root_dir=tmp_path, **quiet)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert saved["batch_size"] == 16 and saved["val_size"] == 0.2
    assert DigitsDataModule.load_from_checkpoint(tmp_path / "run.ckpt").val_size == 0.2


@pytest.mark.parametrize("source", ["mnist", "cifar10", "array", "folder"])
def test_paths_are_saved_as_text(tmp_path, monkeypatch, source):
    data = BUILDERS[source](tmp_path, monkeypatch)
    assert {type(value) for value in data.hparams.values()} <= {str, int, float, bool, type(None)}
    assert str(tmp_path) in str(dict(data.hparams))


def test_all_arguments_are_saved():
    assert dict(CIFAR10DataModule("here", train_size=7, augment=False).hparams) == {
        "data_dir": "here",
        "download": False,
        "batch_size": 128,
        "eval_batch_size": None,
        "val_size": 0.1,
        "train_size": 7,
        "seed": 0,
        "augment": False,
        "loader": "standard",
        "num_workers": 0,
        "extra_path": None,
        "extra_fraction": 0.7,
    }


class BothLoaders(DigitsDataModule):
    """Validates with both kinds of loader, so that one start of two processes is enough."""

    def val_dataloader(self):
        standard = super().val_dataloader()
        self.loader = "resident"
        resident = super().val_dataloader()
        self.loader = "standard"
        return [standard, resident]


class ShardRecorder(Recorder):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.validated = [[], []]
        self.register_buffer("counter", torch.zeros(1))  # DDP broadcasts buffers in every forward

    def validation_step(self, batch, batch_idx, dataloader_idx):
        self.validated[dataloader_idx].append(batch[0])

    def on_fit_end(self):
        images = {"train": [x for _, x, _ in self.seen], "val": self.validated}
        torch.save(images, self.folder / f"{self.global_rank}.pt")


def test_two_processes_share_the_images(tmp_path):
    arguments = {"batch_size": 8, "train_size": 65, "val_size": 33, "eval_batch_size": 4}
    trainer = Trainer(max_epochs=1, strategy="ddp_spawn", devices=2, enable_checkpointing=False, **quiet)
    trainer.fit(ShardRecorder(tmp_path), datamodule=BothLoaders(**arguments))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    data = digits(**arguments)
    data.setup("fit")
    assert [[len(x) for x in rank["train"]] for rank in ranks] == [[8, 8, 8, 8]] * 2
    trained = torch.cat([x for rank in ranks for x in rank["train"]]).flatten(1)
    assert len({tuple(x) for x in trained.tolist()}) == 64
    expected = torch.stack([data.val_set[i][0] for i in range(33)]).flatten(1)
    for loader in range(2):
        first, second = (rank["val"][loader] for rank in ranks)
        assert len(first) == len(second)
        assert sorted(torch.cat([*first, *second]).flatten(1).tolist()) == sorted(expected.tolist())
