"""MultiGPUScaling on one process; several are in tests/processes."""

import json
import math
from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR, StepLR

from lightning_advreg.attacks import PGD, WorstOf
from lightning_advreg.callbacks import MultiGPUScaling, multi_gpu_scaling, scaling_clock
from lightning_advreg.callbacks.scaling_batch import check_batch_norms, shared_batch_size
from lightning_advreg.callbacks.scaling_record import read_record
from lightning_advreg.modules import LinearOneCycle
from lightning_advreg.reporting import scaling_figure
from tests.modules.parts import adversarial, conv, digits, gan, trainer

from .foreign import Foreign, loader
from .foreign import trainer as plain_trainer


class Noting(SGD):
    """Notes the learning rates that steps are taken with."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rates = []

    def step(self, closure=None):
        result = super().step(closure)
        self.rates.append(float(self.param_groups[0]["lr"]))
        return result


class Scheduled(Foreign):
    def __init__(self, scheduler=None, rate=0.1, interval="epoch"):
        super().__init__()
        self.scheduler, self.learning_rate, self.interval = scheduler, rate, interval

    def configure_optimizers(self):
        # momentum remembers the rates of earlier steps
        self.optimizer = Noting(self.parameters(), lr=self.learning_rate, momentum=0.9)
        if self.scheduler is None:
            return self.optimizer
        scheduler = {"scheduler": self.scheduler(self.optimizer), "interval": self.interval}
        return {"optimizer": self.optimizer, "lr_scheduler": scheduler}


def one_cycle(optimizer):
    return OneCycleLR(optimizer, max_lr=2 * optimizer.defaults["lr"], total_steps=12)


def sequence(optimizer):
    parts = [LinearLR(optimizer, 0.5, total_iters=2), CosineAnnealingLR(optimizer, T_max=10)]
    return SequentialLR(optimizer, parts, milestones=[2])


SCHEDULERS = {
    "none": None,
    "step": partial(StepLR, step_size=2, gamma=0.5),
    "cosine": partial(CosineAnnealingLR, T_max=10),
    "lambda": partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    "one-cycle": one_cycle,
    "sequence": sequence,
}


@pytest.fixture
def four(monkeypatch):
    """A single process that takes itself for one of four."""
    monkeypatch.setattr(Trainer, "world_size", 4)


def fit(tmp_path, model, *callbacks, epochs=2, ckpt_path=None, **settings):
    torch.manual_seed(0)
    fitting = plain_trainer(tmp_path, *callbacks, max_epochs=epochs, limit_val_batches=0, **settings)
    fitting.fit(model, loader(12), ckpt_path=ckpt_path)
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return all(value.equal(second[name]) for name, value in first.items())


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_quarter_of_the_rate_scaled_by_four_is_the_rate(name, tmp_path):
    """Bit for bit, whatever schedule goes on from it, also when the run is continued."""
    expected = fit(tmp_path, Scheduled(SCHEDULERS[name], 0.25, "step"))
    scaled = Scheduled(SCHEDULERS[name], 0.0625, "step")
    saved = ModelCheckpoint(tmp_path, filename="first", save_top_k=-1, every_n_epochs=1)
    saving = {"enable_checkpointing": True}
    assert same(fit(tmp_path, scaled, MultiGPUScaling("linear"), saved, epochs=1, **saving), scaled.state_dict())
    again = Scheduled(SCHEDULERS[name], 0.0625, "step")
    continued = fit(tmp_path, again, MultiGPUScaling("linear"), ckpt_path=tmp_path / "first.ckpt")
    # dropout drew other numbers after the interruption
    fresh = Scheduled(SCHEDULERS[name], 0.0625, "step")
    assert same(fit(tmp_path, fresh, MultiGPUScaling("linear")), expected)
    assert fresh.optimizer.rates[-3:] == again.optimizer.rates
    assert continued.keys() == expected.keys()


@pytest.mark.usefixtures("four")
def test_one_cycle_of_this_library_and_both_networks_of_a_gan(tmp_path):
    model = adversarial(optimizer=partial(Noting, lr=0.1, momentum=0.9), lr_scheduler=LinearOneCycle, penalties=())
    settings = {"default_root_dir": tmp_path, "limit_val_batches": 0}
    run = trainer(callbacks=[MultiGPUScaling("sqrt")], limit_train_batches=4, **settings)
    run.fit(model, datamodule=digits())
    peak = LinearOneCycle(SGD([torch.zeros(1, requires_grad=True)], lr=0.2), total_steps=4)
    assert run.optimizers[0].rates[0] == pytest.approx(peak.get_last_lr()[0])
    pair = gan()
    run = trainer(callbacks=[MultiGPUScaling("linear")], limit_train_batches=1, **settings)
    run.fit(pair, datamodule=digits())
    assert sorted(o.param_groups[0]["initial_lr"] for o in run.optimizers) == pytest.approx([4e-3, 16e-3])


WARMUPS = [{"warmup_steps": 4}, {"warmup_epochs": "4/3"}]


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("warmup", WARMUPS, ids=["steps", "epochs"])
@pytest.mark.parametrize("name", ["none", "cosine"])
def test_warm_up_goes_from_the_rate_of_one_process_in_a_line(name, warmup, tmp_path):
    """Whether a schedule goes on from the rate of the moment or not; a run that is continued goes on in it."""
    plain = Scheduled(SCHEDULERS[name], 0.4, "step")
    fit(tmp_path, plain)
    shares = [0.25, 0.4375, 0.625, 0.8125, 1, 1]
    expected = [rate * share for rate, share in zip(plain.optimizer.rates, shares, strict=True)]
    whole = Scheduled(SCHEDULERS[name], 0.1, "step")
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(tmp_path, whole, MultiGPUScaling("linear", **warmup), saved, enable_checkpointing=True)
    assert whole.optimizer.rates == pytest.approx(expected, rel=1e-12)
    again = Scheduled(SCHEDULERS[name], 0.1, "step")
    fit(tmp_path, again, MultiGPUScaling("linear", **warmup), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert again.optimizer.rates == pytest.approx(expected[3:], rel=1e-12)
    # what the scheduler left is there again after the step
    assert plain.optimizer.param_groups[0]["lr"] == pytest.approx(again.optimizer.param_groups[0]["lr"])


@pytest.mark.usefixtures("four")
def test_rates_that_are_tensors_and_a_warm_up_of_one_process(tmp_path):
    model = Scheduled(None, torch.tensor(0.1))
    rate = model.learning_rate
    fit(tmp_path, model, MultiGPUScaling("sqrt", warmup_steps=2, warmup_start=0))
    assert model.optimizer.rates == pytest.approx([0, 0.1, *[0.2] * 4])
    # what the next optimizer is made with stays
    assert rate.item() == pytest.approx(0.1)


def test_a_checkpoint_of_fewer_processes_keeps_its_rates_and_says_so(tmp_path, monkeypatch):
    saved = ModelCheckpoint(tmp_path, filename="first", save_top_k=-1)
    fit(tmp_path, Scheduled(), MultiGPUScaling("linear"), saved, epochs=1, enable_checkpointing=True)
    monkeypatch.setattr(Trainer, "world_size", 4)
    model = Scheduled()
    with pytest.warns(UserWarning, match=r"1 times those of one process.* on 1 processes; this one has 4.* 4 times"):
        fit(tmp_path, model, MultiGPUScaling("linear"), ckpt_path=tmp_path / "first.ckpt")
    assert set(model.optimizer.rates) == {0.1}


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize("failing", [False, True])
def test_the_global_batch_stays_and_the_batch_size_comes_back(failing, tmp_path):
    data, sizes = digits(batch_size=24), []

    class Looking(MultiGPUScaling):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            sizes.append(len(batch[0]))
            if failing:
                raise KeyError("stop")

    callback = Looking(constant_global_batch=True)
    run = trainer(callbacks=[callback], limit_train_batches=2, limit_val_batches=0, default_root_dir=tmp_path)
    if failing:
        with pytest.raises(KeyError, match=r"stop"):
            run.fit(adversarial(), datamodule=data)
    else:
        run.fit(adversarial(), datamodule=data)
        assert callback.record.batch_per_process == 6
    assert set(sizes) == {6} and data.batch_size == 24


def test_batches_that_cannot_be_shared():
    with pytest.raises(ValueError, match=r"batch_size of 20 among 8 processes evenly; set it to 16 or 24"):
        shared_batch_size(digits(batch_size=20), 8)
    with pytest.raises(ValueError, match=r"set it to 8, or use"):
        shared_batch_size(digits(batch_size=4), 8)
    with pytest.raises(ValueError, match=r"NoneType has none; give the Trainer a DataModule"):
        shared_batch_size(None, 8)


class Activated(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def test_batch_norms_that_cannot_be_synchronised():
    with pytest.raises(ValueError, match=r"needs GPUs: .*norm='group'"):
        check_batch_norms(conv(norm="batch"), "cpu")
    check_batch_norms(conv(norm="batch"), "cuda")
    with pytest.raises(ValueError, match=r"finds no BatchNorm in MNISTConvNet"):
        check_batch_norms(conv(norm="group"), "cuda")
    with pytest.raises(ValueError, match=r"lose what layer '1', a Activated, does beside"):
        check_batch_norms(nn.Sequential(nn.BatchNorm2d(2), Activated(2)), "cuda")


@pytest.mark.usefixtures("four")
def test_batch_norm_is_synchronised_during_fit_alone(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(multi_gpu_scaling, "check_batch_norms", lambda module, device: None)
    seen = []

    class Looking(MultiGPUScaling):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            seen.extend(layer for layer in pl_module.modules() if isinstance(layer, nn.SyncBatchNorm))

    model = adversarial(network=conv(norm="batch"))
    names = list(model.state_dict())
    settings = {"limit_train_batches": 1, "limit_val_batches": 0, "default_root_dir": tmp_path}
    settings["callbacks"] = [Looking(sync_batchnorm=True)]
    trainer(**settings).fit(model, datamodule=digits())
    assert seen and not any(isinstance(layer, nn.SyncBatchNorm) for layer in model.modules())
    assert list(model.state_dict()) == names
    assert not any("model_mode" in str(warning.message) for warning in recwarn)
    modes = WorstOf([PGD(eps=0.1), PGD(eps=0.2, model_mode="train")])
    model = adversarial(network=conv(norm="batch"), attack=modes, eps_warmup_epochs=0)
    with pytest.warns(UserWarning, match=r"attack of AdversarialClassifier runs with model_mode='train'.*another att"):
        trainer(**settings).fit(model, datamodule=digits())


def measured(tmp_path, baseline, **changes):
    callback = MultiGPUScaling(baseline=baseline)
    model = adversarial(engine=None, eps_warmup_epochs=0, **changes)
    settings = {"callbacks": [callback], "limit_train_batches": 2, "limit_val_batches": 0}
    trainer(**settings, default_root_dir=tmp_path, max_epochs=2).fit(model, datamodule=digits())
    return callback


def test_a_run_on_one_process_is_what_later_ones_are_compared_with(tmp_path, monkeypatch):
    baseline = tmp_path / "shared" / "one.json"
    single = measured(tmp_path / "one", baseline).record
    assert read_record(baseline) == single == read_record(tmp_path / "one" / "scaling.json")
    # two steps of PGD at each image
    assert (single.processes, single.global_batch) == (1, 16)
    assert single.attack_passes_per_image == pytest.approx(2)
    assert single.lost_in_communication is None and not list((tmp_path / "one").glob("images/*"))
    monkeypatch.setattr(Trainer, "world_size", 4)
    callback = measured(tmp_path / "four", baseline)
    content = json.loads((tmp_path / "four" / "scaling.json").read_text())
    record = callback.record
    assert content["efficiency"] == record.images_per_second / (4 * single.images_per_second)
    assert content["compared_with"]["images_per_second"] == single.images_per_second
    assert [path.name for path in (tmp_path / "four" / "images").iterdir()] == ["scaling_000004.png"]
    # the baseline is not written over
    assert read_record(baseline) == single
    with pytest.warns(UserWarning, match=r"no efficiency.*parameters: \d+ there, \d+ here"):
        measured(tmp_path / "wider", baseline, network=conv(norm="batch", width=8))
    assert json.loads((tmp_path / "wider" / "scaling.json").read_text())["efficiency"] is None
    with pytest.raises(ValueError, match=r"baseline scaling.json is of a run on 4 processes; give the file"):
        measured(tmp_path, tmp_path / "four" / "scaling.json")
    (tmp_path / "broken.json").write_text('{"processes": 1')
    with pytest.raises(ValueError, match=r"baseline broken.json is no record of a run \(JSONDecodeError\)"):
        measured(tmp_path, tmp_path / "broken.json")
    with pytest.warns(UserWarning, match=r"there is no baseline .*--trainer.devices 1 first"):
        measured(tmp_path, tmp_path / "missing.json")


class Slow(Foreign):
    """Training takes a second a batch, evaluation a hundred, of a clock that only they move."""

    now = 0.0

    def training_step(self, batch, batch_idx):
        Slow.now += 1
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        Slow.now += 100


def test_validation_is_no_training_time_and_no_step_waits(tmp_path, monkeypatch):
    looks = []
    monkeypatch.setattr(scaling_clock, "clock", lambda module: looks.append(1) or Slow.now)
    callback = MultiGPUScaling()
    run = plain_trainer(tmp_path, callback, max_epochs=3, val_check_interval=3, num_sanity_val_steps=2)
    run.fit(Slow(), loader(40), loader(4))
    assert callback.record.images_per_second == 4
    assert run.callback_metrics["train/images_per_second"] == 4
    assert "train/attack_passes_per_second" not in run.callback_metrics
    # ten batches and three validations an epoch: start, stop, and a pair for each validation
    assert len(looks) == 3 * (2 + 3 * 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": "square"}, r"learning_rate must be linear, sqrt or None, got 'square'"),
        ({"warmup_epochs": -1}, r"warmup_epochs must be at least 0, got -1"),
        ({"warmup_steps": 1.5}, r"warmup_steps must be an integer of at least 0, got 1.5"),
        ({"warmup_epochs": 1, "warmup_steps": 2}, r"got warmup_epochs=1 and warmup_steps=2; leave one"),
        ({"warmup_start": 2}, r"warmup_start must be at most 1"),
        ({"learning_rate": "sqrt", "constant_global_batch": True}, r"learning_rate='sqrt' follows the global batch"),
    ],
)
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiGPUScaling(**arguments)


def test_the_figure_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match=r"images per second above 0"):
        scaling_figure({})
    with pytest.raises(ValueError, match=r"lost must be shares"):
        scaling_figure({1: 1.0}, lost={1: 2.0})
    line = scaling_figure({2: 100.0, 8: 300.0}).axes[0].lines[0]
    assert math.isclose(line.get_ydata()[-1], 400)
