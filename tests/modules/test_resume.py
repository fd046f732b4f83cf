"""Training that was stopped goes on bit for bit as if it had not been."""

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg.attacks import PGD
from lightning_advreg.augmentations import InputNoise
from lightning_advreg.callbacks import (
    ActivationNoise,
    BatchAugmentation,
    DropoutAblation,
    NormAblation,
    RobustAccuracy,
)

from .parts import BUILDERS, digits, trainer

EPOCHS = 3


class StopAfterFirstEpoch(Callback):
    def on_train_epoch_end(self, trainer, module):
        trainer.should_stop = True


class InterruptAtBatch(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == self.step:
            raise KeyboardInterrupt


def run(kind, folder, data, *, seed, callbacks=(), ckpt_path=None, **checkpointing):
    seed_everything(seed, verbose=False)
    model = BUILDERS[kind]()
    saving = ModelCheckpoint(folder, save_last=True, **checkpointing)
    attacked = [] if kind == "gan" else [RobustAccuracy(PGD(eps=0.2, step_size=0.1, steps=2), max_samples=16)]
    fitting = trainer(
        max_epochs=EPOCHS,
        enable_checkpointing=True,
        num_sanity_val_steps=1,
        limit_val_batches=2,
        default_root_dir=folder,
        callbacks=[*attacked, *callbacks, saving],
    )
    fitting.fit(model, **data, ckpt_path=ckpt_path, weights_only=True)
    return model, fitting


def assert_same(value, other, place="root"):
    assert type(value) is type(other), place
    if isinstance(value, torch.Tensor):
        assert torch.equal(value, other), place
    elif isinstance(value, dict):
        assert value.keys() == other.keys(), place
        for key in value:
            assert_same(value[key], other[key], f"{place}.{key}")
    elif isinstance(value, list | tuple):
        assert len(value) == len(other), place
        for index, pair in enumerate(zip(value, other, strict=True)):
            assert_same(*pair, f"{place}[{index}]")
    else:
        assert value == other, place


def assert_same_run(first, second):
    (model, fitted), (model_2, fitted_2) = first, second
    assert_same(dict(model.state_dict()), dict(model_2.state_dict()))
    for part in ("optimizers", "lr_scheduler_configs"):
        states = [
            [(item.state_dict() if part == "optimizers" else item.scheduler.state_dict()) for item in items]
            for items in (getattr(fitted, part), getattr(fitted_2, part))
        ]
        assert_same(*states, part)
    assert fitted.global_step == fitted_2.global_step
    assert fitted.current_epoch == fitted_2.current_epoch == EPOCHS
    for counter in ("batches_seen", "images_seen", "generator_steps"):
        assert getattr(model, counter, None) == getattr(model_2, counter, None)


@pytest.mark.parametrize("loader", ["standard", "resident"])
@pytest.mark.parametrize("kind", BUILDERS)
def test_a_run_stopped_after_an_epoch_ends_with_the_same_bits(kind, loader, tmp_path):
    data = {"datamodule": digits(loader=loader, augment=True)}
    whole = run(kind, tmp_path / "whole", data, seed=0)
    _, stopped = run(kind, tmp_path / "part", data, seed=0, callbacks=[StopAfterFirstEpoch()])
    assert stopped.current_epoch == 1
    data = {"datamodule": digits(loader=loader, augment=True)}
    resumed = run(kind, tmp_path / "part", data, seed=99, ckpt_path=tmp_path / "part" / "last.ckpt")
    assert_same_run(whole, resumed)


@pytest.mark.parametrize("kind", ["adversarial", "gan"])
def test_another_seed_alone_gives_other_bits(kind, tmp_path):
    # the comparison above would be empty if nothing random reached the weights
    data = {"datamodule": digits()}
    run(kind, tmp_path, data, seed=0, callbacks=[StopAfterFirstEpoch()])
    path = tmp_path / "last.ckpt"
    stored = torch.load(path, weights_only=True)
    torch.manual_seed(123)
    stored["lightning_advreg"]["random_state"] = torch.get_rng_state()
    torch.save(stored, tmp_path / "other.ckpt")
    first, _ = run(kind, tmp_path / "a", data, seed=0, ckpt_path=path)
    second, _ = run(kind, tmp_path / "b", data, seed=0, ckpt_path=tmp_path / "other.ckpt")
    network = "generator_ema" if kind == "gan" else "network"
    pairs = zip(getattr(first, network).parameters(), getattr(second, network).parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_run_stopped_within_an_epoch_ends_with_the_same_bits(kind, tmp_path):
    whole = run(kind, tmp_path / "whole", {"datamodule": digits()}, seed=0)
    saving = {"every_n_train_steps": 1, "save_top_k": -1}
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(kind, tmp_path / "part", {"datamodule": digits()}, seed=0, callbacks=[InterruptAtBatch(3)], **saving)
    last = tmp_path / "part" / "last.ckpt"
    resumed = run(kind, tmp_path / "rest", {"datamodule": digits()}, seed=99, ckpt_path=last)
    assert_same_run(whole, resumed)


def test_changed_layers_and_noise_go_on_within_an_epoch(tmp_path):
    def callbacks():
        noise = BatchAugmentation([InputNoise(std=0.1)]), ActivationNoise(0.1, "network.features.0")
        return [NormAblation("group"), DropoutAblation(0.3, "spatial"), *noise]

    def part(name, *more, **settings):
        every = {"every_n_train_steps": 1, "save_top_k": -1}
        data = {"datamodule": digits()}
        return run("regularized", tmp_path / name, data, callbacks=[*callbacks(), *more], **every, **settings)

    whole = part("whole", seed=0)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        part("part", InterruptAtBatch(3), seed=0)
    resumed = part("rest", seed=99, ckpt_path=tmp_path / "part" / "last.ckpt")
    assert_same_run(whole, resumed)
    assert isinstance(resumed[0].network.features[1], torch.nn.GroupNorm)


def test_a_run_with_the_users_own_shuffling_loader_ends_with_the_same_bits(tmp_path):
    def data():
        x = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        train = DataLoader(TensorDataset(x, torch.arange(48) % 10), batch_size=16, shuffle=True)
        return {"train_dataloaders": train}

    whole = run("adversarial", tmp_path / "whole", data(), seed=0)
    run("adversarial", tmp_path / "part", data(), seed=0, callbacks=[StopAfterFirstEpoch()])
    resumed = run("adversarial", tmp_path / "part", data(), seed=99, ckpt_path=tmp_path / "part" / "last.ckpt")
    assert_same_run(whole, resumed)


def test_evaluation_does_not_touch_the_random_state(tmp_path):
    model, fitted = run("adversarial", tmp_path, {"datamodule": digits()}, seed=0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fitted.test(model, datamodule=digits(), ckpt_path=tmp_path / "last.ckpt", weights_only=True, verbose=False)
    assert torch.equal(torch.get_rng_state(), before)
