"""The perturbation of FreeAT in checkpoints, on devices and in training, and what is refused."""

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_advreg import AdversarialClassifier
from lightning_advreg.attacks import PGD, Attack
from lightning_advreg.modules import LinearOneCycle
from lightning_advreg.objectives.free import FreeAT
from tests.modules.parts import AtBatches, conv, digits, trainer

from .replaying import ATTACK, EPS, RATE, REPLAYS, batches, images, literal, network, settled, train


@pytest.fixture
def net():
    return network().double().train()


def test_the_state_dict_brings_the_perturbation_to_another_objective(net, tmp_path):
    objective, data = FreeAT(replays=2), batches([6, 6])
    train(net, objective, data[:1])
    path = tmp_path / "state.pt"
    torch.save({"objective": objective.state_dict(), "net": net.state_dict()}, path)
    stored = torch.load(path, weights_only=True)
    other, clone = FreeAT(replays=2), network().double().train()
    other.load_state_dict(stored["objective"])
    clone.load_state_dict(stored["net"])
    assert stored["objective"]["_extra_state"].abs().max() == EPS
    train(net, objective, data[1:])
    train(clone, other, data[1:])
    for ours, theirs in zip(clone.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(settled(other), settled(objective))


def test_loading_forgets_the_gradient_that_waits_and_keeps_its_own_tensor(net):
    objective, ((x, y),) = FreeAT(), batches([6])
    train(net, objective, [(x, y)])
    state = copy.deepcopy(objective.state_dict())
    objective(net, x, y, ATTACK).loss.backward()
    objective.load_state_dict(state)
    assert torch.equal(settled(objective), state["_extra_state"])
    before = state["_extra_state"].clone()
    train(net, objective, [(x, y)])
    assert torch.equal(state["_extra_state"], before)


def test_it_follows_the_images_in_type_and_place(net):
    objective, ((x, y),) = FreeAT(replays=1), batches([6])
    train(net, objective, [(x, y)])
    (x_adv,) = objective.craft(net, x.float(), y, ATTACK)
    assert x_adv.dtype == objective.delta.dtype == torch.float32
    (x_adv,) = objective.craft(net, x.to("meta"), y, ATTACK)
    assert x_adv.device.type == objective.delta.device.type == "meta"


def test_other_processes_keep_their_own(net):
    """DistributedDataParallel copies buffers of the first process to the others before every pass."""
    objective = FreeAT()
    train(net, objective, batches([6]))
    assert list(objective.buffers()) == []


def data_of(count=40):
    x, y = images(count)
    return {"train_dataloaders": DataLoader(TensorDataset(x, y), batch_size=16)}


def classifier(objective=None, **settings):
    return AdversarialClassifier(
        **{
            "network": network(),
            "attack": ATTACK,
            "objective": FreeAT(replays=REPLAYS) if objective is None else objective,
            "optimizer": partial(torch.optim.SGD, lr=RATE, momentum=0.9),
            "lr_scheduler": LinearOneCycle,
            **settings,
        }
    )


def test_training_equals_the_algorithm():
    model, rates = classifier(), []
    see = AtBatches(lambda t, m, batch: rates.append(t.optimizers[0].param_groups[0]["lr"]))
    fitting = trainer(max_epochs=2, callbacks=[see], limit_val_batches=0)
    fitting.fit(model, **data_of())

    # the schedule moves once for each of the six batches, after its replays
    schedule = LinearOneCycle(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=RATE), total_steps=6)
    expected = []
    for _ in range(6):
        expected += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    # a batch ends after the schedule has moved
    assert rates[:-1] == pytest.approx(expected[1:])

    reference = network().train()
    data = [batch for _ in range(2) for batch in data_of()["train_dataloaders"]]
    losses, delta = literal(reference, data, expected, momentum=0.9)
    assert len(losses) == 6 * REPLAYS
    for ours, theirs in zip(model.network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(settled(model.objective), delta, atol=1e-6, rtol=0)
    # each of the forward passes updates the statistics once
    assert model.network[1].num_batches_tracked == 6 * REPLAYS
    # Lightning counts a batch as one step, as does the schedule
    assert fitting.global_step == 6


class InterruptAt(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 1):
            raise KeyboardInterrupt


@pytest.mark.parametrize("middle", [True, False], ids=["within an epoch", "after an epoch"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, middle):
    def fit(seed, **arguments):
        torch.manual_seed(seed)
        model = classifier(network=conv(norm="batch", dropout=0.3))
        callbacks = arguments.pop("callbacks", [])
        fitting = trainer(max_epochs=2, limit_val_batches=0, enable_checkpointing=bool(callbacks), callbacks=callbacks)
        fitting.fit(model, datamodule=digits(train_size=48), **arguments)
        return model

    saving = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1, save_top_k=-1)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(0, callbacks=[InterruptAt(), saving])
    path = tmp_path / "last.ckpt" if middle else next(tmp_path.glob("*step=3.ckpt"))
    stored = torch.load(path, weights_only=True)
    assert stored["global_step"] == (4 if middle else 3)
    assert stored["state_dict"]["objective._extra_state"].shape == (16, 1, 8, 8)

    whole, rest = fit(0), fit(99, ckpt_path=path, weights_only=True)
    for ours, theirs in zip(rest.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(settled(rest.objective), settled(whole.objective))


def test_a_checkpoint_rebuilds_the_objective(tmp_path):
    model = classifier(FreeAT(replays=2, label_smoothing="1/10"))
    fitting = trainer(max_epochs=1, limit_val_batches=0)
    fitting.fit(model, **data_of())
    fitting.save_checkpoint(tmp_path / "model.ckpt")
    loaded = AdversarialClassifier.load_from_checkpoint(tmp_path / "model.ckpt", network=network())
    assert (loaded.objective.replays, loaded.replays, loaded.objective.label_smoothing) == (2, 2, 0.1)
    assert torch.equal(settled(loaded.objective), settled(model.objective))


class Shift(Attack):
    def __call__(self, model, x, y):
        return x


def test_attacks_it_cannot_take_the_budget_of_are_refused(net):
    ((x, y),) = batches([6])
    with pytest.raises(TypeError, match=r"FreeAT needs the budget of the attack.*`radius`"):
        FreeAT()(net, x, y, Shift())
    with pytest.raises(ValueError, match="FreeAT is defined for attacks in 'linf', got norm 'l2'"):
        FreeAT()(net, x, y, PGD(norm="l2", eps=1.0))


def test_images_of_another_shape_are_refused(net):
    objective, ((x, y),) = FreeAT(), batches([6])
    objective(net, x, y, ATTACK)
    with pytest.raises(ValueError, match=r"must keep their shape \(1, 6, 6\), got \(1, 5, 6\); resize .* FreeAT\(\)"):
        objective(net, x[:, :, 1:], y, ATTACK)


@pytest.mark.parametrize("replays", [0, -1, 2.0, True, "8"])
def test_a_bad_number_of_replays_is_refused(replays):
    with pytest.raises(ValueError, match="replays must be an integer of at least 1"):
        FreeAT(replays=replays)


@pytest.mark.parametrize(("smoothing", "message"), [(1, "must be less than 1, got 1"), (-0.1, "must be at least 0")])
def test_a_bad_label_smoothing_is_refused(smoothing, message):
    with pytest.raises(ValueError, match=f"label_smoothing {message}"):
        FreeAT(label_smoothing=smoothing)
